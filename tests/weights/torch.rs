//! PyTorch's archives: the tensors that `torch.save` put there, and pickles that want more than to be read.

use std::path::PathBuf;
use std::sync::Arc;

use chiaro::weights::{FileFormat, StoredType, TensorSet, WeightFile, WeightType, Weights, join_shards};
use safetensors::SafeTensors;

use super::values;
use crate::support::golden::committed;
use crate::support::single_file::Entry;
use crate::support::torch_file::{long_zip, torch, zip};

fn path(name: &str) -> PathBuf {
    committed().join("formats").join(name)
}

fn open(name: &str) -> WeightFile {
    WeightFile::open(path(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// The message about a file, which says how to convert it unless it is damaged.
fn refusal(file: Result<WeightFile, chiaro::Error>) -> String {
    let message = file.expect_err("the file is refused").to_string();
    assert!(!message.contains('\n') && (message.contains("torch.load(") || message.contains("again")), "{message}");
    message
}

/// Types, shapes and values of `torch.save`'s tensors, in both protocols, are those of the same tensors in safetensors.
#[test]
fn tensors_are_those_that_were_saved() {
    let bytes = std::fs::read(path("lightning.safetensors")).expect("the golden");
    let expected = SafeTensors::deserialize(&bytes).expect("safetensors");
    let twin = Arc::new(open("lightning.safetensors"));
    for name in ["lightning.ckpt", "bare.pt"] {
        let file = Arc::new(open(name));
        assert_eq!(file.format(), FileFormat::Torch);
        assert_eq!(
            file.tensors().keys().collect::<Vec<_>>(),
            twin.tensors().keys().collect::<Vec<_>>(),
            "{name}: names, without the optimizer's"
        );
        assert_eq!(file.tensors().len(), expected.len());
        for (tensor, want) in twin.tensors() {
            let got = &file.tensors()[tensor];
            assert_eq!((got.dtype, &got.shape), (want.dtype, &want.shape), "{name}: {tensor}");
        }
        let [own, wanted] = [&file, &twin].map(|file| {
            let w = Weights::new(Arc::clone(file), "m", WeightType::Keep);
            let read = |name: &str, shape: [usize; 2]| {
                values(&w.matrix(name, shape).unwrap_or_else(|e| panic!("{name}: {e}")))
            };
            let mut all = vec![read("single", [2, 3]), read("half", [4, 2]), read("small", [4, 4])];
            all.extend([
                read("parameter", [2, 2]),
                read("marked", [2, 2]),
                read("first", [2, 4]),
                read("last", [4, 4]),
            ]);
            all.push(values(&w.vector("brain", 3).unwrap_or_else(|e| panic!("{e}"))));
            all
        });
        assert!(own == wanted && own.iter().flatten().any(|v| *v != 0.0), "{name}");
    }
    assert_eq!(open("lightning.ckpt").tensors()["small"].dtype, StoredType::F8E4M3);
    assert_eq!(open("lightning.ckpt").tensors()["ids"].dtype.to_string(), "I64");
    let nested = open("nested.pt");
    assert_eq!(nested.tensors().keys().collect::<Vec<_>>(), ["text.b.c", "unet.a"]);
    // A file's hash is that of its bytes, whatever it is.
    assert_eq!(TensorSet::from(Arc::new(nested)).sha256().expect("read").len(), 64);
}

/// A function that a pickle names is never called: where it stands beside the tensors it is passed over, elsewhere the file is refused.
#[test]
fn nothing_is_executed() {
    let beside = open("beside.ckpt");
    assert_eq!(beside.tensors().keys().collect::<Vec<_>>(), ["a"]);
    for name in ["among.ckpt", "instead.ckpt"] {
        let message = refusal(WeightFile::open(path(name)));
        assert!(message.contains("\"posix.system\" makes, which is never called here"), "{message}");
    }
    assert!(!PathBuf::from("pickle-was-executed").exists(), "the pickle's command ran");
}

#[test]
fn other_forms_say_how_to_convert_them() {
    assert!(refusal(WeightFile::open(path("old.pt"))).contains("before 1.6"));
    assert!(refusal(WeightFile::open(path("turned.pt"))).contains("a: expected elements after each other"));
    let mut tar = vec![0; 600];
    tar[..7].copy_from_slice(b"storage");
    tar[257..262].copy_from_slice(b"ustar");
    assert!(refusal(WeightFile::from_bytes(tar, "bytes")).contains("before 1.6"));
}

/// The archive of a pickle, with a storage `0` of eight bytes.
fn pickled(pickle: &[u8]) -> Result<WeightFile, chiaro::Error> {
    let file = zip(&[("x/data.pkl", pickle), ("x/data/0", &[1; 8]), ("x/version", b"3\n")]);
    WeightFile::from_bytes(file, "bytes")
}

/// `("storage", torch.FloatStorage, "0", "cpu", 2)` as a persistent id.
const STORAGE: &str = "(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQ";

/// `{"a": _rebuild_tensor_v2(storage, …)}`
fn one(arguments: &str) -> Vec<u8> {
    format!("}}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n({STORAGE}{arguments}N}}tRs.").into_bytes()
}

#[test]
fn pickles_that_lie_are_refused() {
    let sound = one("K\0(K\x02t(K\x01t");
    let file = pickled(&sound).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(file.tensors()["a"].shape, [2]);
    // What is neither a tensor nor among tensors is passed over, whatever its key is.
    let beside = [b"}X\x01\0\0\0z}cx\ny\ncx\ny\n)Rss", &sound[1..]].concat();
    assert_eq!(pickled(&beside).unwrap_or_else(|e| panic!("{e}")).tensors().len(), 1);
    for (arguments, part) in [
        ("K\x01(K\x02t(K\x01t", "a: expected its [2] elements inside"),
        ("K\0(K\x03t(K\x01t", "a: expected its [3] elements inside"),
        ("K\0(K\x02t(K\x02t", "a: expected elements after each other"),
        ("K\0(K\x02t(K\x01K\x01t", "lacks what it works on"),
        ("J\u{7f}\u{7f}\u{7f}\u{7f}(K\x02t(K\x01t", "a: expected its [2] elements inside"),
    ] {
        let message = refusal(pickled(&one(arguments)));
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
    for (pickle, part) in [
        (b"".as_slice(), "ends without its end"),
        (b".", "ends without a value"),
        (b"}}", "ends without its end"),
        (b"N.", "a plain value"),
        (b"].", "a list"),
        (b"i", "opcode INST (0x69) at byte 0"),
        (b"}I5\n.", "opcode INT (0x49) at byte 1"),
        (b"}(", "ends without its end"),
        (b"}(0000.", "opcode 0x30"),
        (b"h\x05.", "opcode 0x68"),
        (b"cos\nsystem\n(X\x04\0\0\0truetR.", "\"os.system\" makes, which is never called here"),
        (b"\x8c\x02os\x8c\x06system\x93.", "got \"os.system\""),
        (b"X\xff\xff\xff\xff.", "opcode 0x58"),
        (b"}X\x01\0\0\0\xffN s.", "opcode 0x58"),
    ] {
        let message = refusal(pickled(pickle));
        assert!(message.contains(part), "{pickle:?}: {message}");
    }
    // A dictionary in itself, and one in two places.
    assert!(refusal(pickled(b"}q\0X\x01\0\0\0ah\0s.")).contains("stands elsewhere"));
    assert!(refusal(pickled(b"}X\x01\0\0\0a}q\x01sX\x01\0\0\0bh\x01s.")).contains("stands elsewhere"));
    // More values than the file accounts for.
    for much in [b"]".as_slice(), b"N", b"(", b"}", b"]2a"] {
        let pickle = [b"]", much.repeat(100_000).as_slice(), b"."].concat();
        assert!(refusal(pickled(&pickle)).contains("more memory"), "{much:?}");
    }
    let nested: Vec<u8> = [b"}X\x01\0\0\0a".repeat(20), b"}".to_vec(), b"s".repeat(20), b".".to_vec()].concat();
    assert!(refusal(pickled(&nested)).contains("at most 16 dictionaries"));
}

/// Archives beyond 4 GiB keep sizes and places elsewhere.
#[test]
fn archives_for_large_files() {
    let pickle = one("K\0(K\x02t(K\x01t");
    let entries: [(&str, &[u8]); 2] = [("x/data.pkl", &pickle), ("x/data/0", &[1; 8])];
    let [short, long] = [zip(&entries), long_zip(&entries)].map(|bytes| {
        let file = Arc::new(WeightFile::from_bytes(bytes, "bytes").unwrap_or_else(|e| panic!("{e}")));
        values(&Weights::new(file, "m", WeightType::Keep).vector("a", 2).unwrap_or_else(|e| panic!("{e}")))
    });
    assert_eq!((&short, short[0]), (&long, f32::from_le_bytes([1; 4])));
}

/// Shards of a model in PyTorch's archives, with transformers' kind of index.
#[test]
fn shards_are_one_model() {
    let entry = |name: &str| Entry { bytes: Some(vec![0; 8]), dtype: "F32", ..Entry::hole(name, &[2]) };
    let index =
        br#"{"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}"#;
    let joined = join_shards("index", index, |name| {
        let tensor = if name.contains("00001") { "a" } else { "b" };
        WeightFile::from_bytes(torch(&[entry(tensor)], false), name).map(Some)
    });
    assert_eq!(joined.unwrap_or_else(|e| panic!("{e}")).tensors().keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn archives_that_lie_are_refused() {
    let entry = Entry { bytes: Some(vec![0; 16]), dtype: "F32", ..Entry::hole("a", &[2, 2]) };
    let sound = torch(std::slice::from_ref(&entry), true);
    let open = |bytes: Vec<u8>| WeightFile::from_bytes(bytes, "bytes");
    assert_eq!(open(sound.clone()).unwrap_or_else(|e| panic!("{e}")).tensors()["a"].shape, [2, 2]);
    for cut in [4, 40, sound.len() - 30, sound.len() - 1] {
        assert!(refusal(open(sound[..cut].to_vec())).contains("cut short"), "cut at {cut}");
    }
    assert!(refusal(open(zip(&[("readme.txt", b"hello")]))).contains("expected one data.pkl in the archive, found 0"));
    let two: &[(&str, &[u8])] = &[("a/data.pkl", b"}."), ("b/data.pkl", b"}.")];
    assert!(refusal(open(zip(two))).contains("found 2"));
    let twice: &[(&str, &[u8])] = &[("a/data.pkl", b"}."), ("a/data.pkl", b"}.")];
    assert!(refusal(open(zip(twice))).contains("two entries"));
    let script: &[(&str, &[u8])] = &[("a/data.pkl", b"}."), ("a/constants.pkl", b").")];
    assert!(refusal(open(zip(script))).contains("TorchScript"));
    let big: &[(&str, &[u8])] = &[("a/data.pkl", b"}."), ("a/byteorder", b"big")];
    assert!(refusal(open(zip(big))).contains("got \"big\""));
    // The second entry's method in the directory: deflated.
    let mut packed = zip(&[("a/data.pkl", b"}."), ("b", b"")]);
    let at = packed.windows(4).position(|window| window == b"PK\x01\x02").expect("a directory");
    packed[at + 10] = 8;
    assert!(refusal(open(packed.clone())).contains("packed (method 8)"));
    packed[at + 8] = 1;
    assert!(refusal(open(packed)).contains("encrypted"));
    // A storage of another name, in the directory, which is the last place that has it.
    let mut renamed = sound.clone();
    let at = sound.windows(14).rposition(|w| w == b"archive/data/0").expect("its line");
    renamed[at + 13] = b'1';
    assert!(refusal(open(renamed)).contains("expected an entry data/0"));
}

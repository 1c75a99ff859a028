//! Damaged and hostile files of the other formats: GGUF, and PyTorch's archives and pickles.

use std::sync::Arc;

use chiaro::weights::{WeightFile, WeightType, Weights};

use super::{CASES, Numbers, check_counts, entry, survives};
use crate::support::gguf_file::{Tensor, gguf, q4_0, q8_0};
use crate::support::golden::committed;
use crate::support::single_file::Entry;
use crate::support::torch_file::{torch, zip};

/// Numbers that end behind every file, or wrap around.
fn huge(numbers: &mut Numbers) -> u64 {
    match numbers.below(4) {
        0 => numbers.next(),
        1 => numbers.next() >> numbers.below(64),
        2 => u64::MAX - numbers.next() % 64,
        _ => 1 << numbers.below(64),
    }
}

/// Writes a number over what is at a place.
fn overwrite(file: &mut [u8], at: usize, value: u64, size: usize) {
    let end = (at + size).min(file.len());
    file[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
}

fn flip(file: &mut [u8], from: usize, to: usize, numbers: &mut Numbers) {
    for _ in 0..1 + numbers.below(3) {
        file[from + numbers.below(to - from)] ^= 1 << numbers.below(8);
    }
}

/// Every tensor of a small file, as a model would ask for them.
fn use_all(file: WeightFile, names: &[(&str, [usize; 2])]) -> chiaro::Result<()> {
    let w = Weights::new(Arc::new(file), "m", WeightType::Keep);
    for (name, shape) in names {
        let constant = w.matrix(name, *shape)?;
        assert_eq!(constant.data.bytes()?.len(), constant.byte_len());
        w.table(name, *shape)?.row(shape[0] - 1)?;
    }
    w.finish(&[])
}

#[test]
fn damaged_gguf_files() {
    let x = vec![0.5; 512];
    let names =
        [("a.plain", [4, 4]), ("b.eight", [2, 256]), ("c.four", [8, 64]), ("d.cut", [4, 128]), ("e.k", [2, 256])];
    let tensors = [
        Tensor::new("a.plain", 0, &[4, 4], vec![0; 64]),
        Tensor::new("b.eight", 8, &[2, 256], q8_0(&x)),
        Tensor::new("c.four", 2, &[8, 64], q4_0(&x)),
        Tensor::new("d.cut", 8, &[2, 256], q8_0(&x)),
        Tensor::new("e.k", 12, &[2, 256], vec![0; 288]),
    ];
    let shapes = [("d.cut", vec![4, 128])];
    let sound = gguf(&tensors, &shapes);
    // Where the data begin: each tensor's is at a multiple of 32.
    let data: usize = tensors.iter().map(|tensor| tensor.bytes.len().next_multiple_of(32)).sum();
    let header = sound.len().next_multiple_of(32) - data;
    use_all(WeightFile::from_bytes(sound.clone(), "bytes").expect("sound"), &names).expect("sound");
    let mut numbers = Numbers(11);
    let mut accepted = 0;
    for case in 0..CASES {
        let mut file = sound.clone();
        match numbers.below(6) {
            0 => file.truncate(numbers.below(sound.len())),
            1 | 2 => flip(&mut file, 4, header, &mut numbers),
            3 => {
                let (at, size) = (4 + numbers.below(header - 4), *numbers.pick(&[4, 8]));
                overwrite(&mut file, at, huge(&mut numbers), size);
            }
            4 => {
                let mut changed = tensors.to_vec();
                let at = numbers.below(changed.len());
                match numbers.below(4) {
                    0 => changed.push(tensors[at].clone()),
                    1 => drop(changed.remove(at)),
                    2 => changed[at].kind = numbers.below(45) as u32,
                    _ => {
                        let axes = numbers.below(6);
                        let extents = [0, 1, 2, 3, 4, 32, 256, 1 << 40, 1 << 62, usize::MAX];
                        changed[at].shape = (0..axes).map(|_| *numbers.pick(&extents)).collect();
                    }
                }
                file = gguf(&changed, &shapes);
            }
            _ => {
                let extents = [0, 1, 4, 128, 1 << 30, usize::MAX];
                let shape = (0..numbers.below(10)).map(|_| *numbers.pick(&extents)).collect();
                file = gguf(&tensors, &[(*numbers.pick(&["a.plain", "d.cut", "e.k"]), shape)]);
            }
        }
        let size = file.len();
        accepted += u64::from(survives(case, size, || use_all(WeightFile::from_bytes(file, "bytes")?, &names)));
    }
    check_counts(accepted, CASES);
}

const NAMES: [(&str, [usize; 2]); 3] = [("a", [4, 4]), ("b.weight", [2, 4]), ("c", [4, 1])];

fn saved() -> Vec<Entry> {
    NAMES.iter().map(|(name, shape)| entry(name, shape)).collect()
}

fn find(file: &[u8], what: &[u8]) -> usize {
    file.windows(what.len()).position(|window| window == what).expect("it is there")
}

#[test]
fn damaged_archives() {
    let sound = torch(&saved(), true);
    use_all(WeightFile::from_bytes(sound.clone(), "bytes").expect("sound"), &NAMES).expect("sound");
    let directory = find(&sound, b"PK\x01\x02");
    let mut numbers = Numbers(12);
    let mut accepted = 0;
    for case in 0..CASES {
        let mut file = sound.clone();
        match numbers.below(5) {
            0 => file.truncate(numbers.below(sound.len())),
            1 => flip(&mut file, directory, sound.len(), &mut numbers),
            2 => {
                // A place, a size, a length or a count.
                let lines: Vec<usize> =
                    (directory..sound.len() - 4).filter(|&at| sound[at..].starts_with(b"PK\x01\x02")).collect();
                let line = *numbers.pick(&lines);
                let (at, size) =
                    *numbers.pick(&[(8, 2), (10, 2), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4)]);
                overwrite(&mut file, line + at, huge(&mut numbers), size);
            }
            3 => {
                let end = sound.len() - 22;
                let (at, size) = *numbers.pick(&[(10, 2), (16, 4), (20, 2), (8, 8), (0, 4)]);
                overwrite(&mut file, end + at, huge(&mut numbers), size);
            }
            _ => {
                // The records of large files, which the end then points to.
                let end = sound.len() - 22;
                overwrite(&mut file, end + 16, u64::MAX, 4);
                let (count, place) =
                    (huge(&mut numbers), if case % 2 == 0 { directory as u64 } else { huge(&mut numbers) });
                let mut long = b"PK\x06\x06".to_vec();
                long.extend([0; 28]);
                for field in [count, 0, place] {
                    long.extend(field.to_le_bytes());
                }
                long.extend(b"PK\x06\x07\0\0\0\0");
                long.extend(if case % 3 == 0 { huge(&mut numbers) } else { end as u64 }.to_le_bytes());
                long.extend([0; 4]);
                file.splice(end..end, long);
            }
        }
        let size = file.len();
        accepted += u64::from(survives(case, size, || use_all(WeightFile::from_bytes(file, "bytes")?, &NAMES)));
    }
    check_counts(accepted, CASES);
}

/// Pieces of streams that ask for much, or for what is not there.
const PIECES: [&[u8]; 32] = [
    b"0",
    b"1",
    b"2",
    b"(",
    b")",
    b"}",
    b"]",
    b"a",
    b"e",
    b"s",
    b"u",
    b"t",
    b"l",
    b"d",
    b"R",
    b"b",
    b"Q",
    b".",
    b"\x81",
    b"\x85",
    b"\x87",
    b"\x94",
    b"\x93",
    b"h\0",
    b"j\xff\xff\xff\xff",
    b"r\xff\xff\xff\xff",
    b"X\xff\xff\xff\xff",
    b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x8b\xff\xff\xff\x7f",
    b"J\xff\xff\xff\xff",
    b"cos\nsystem\n",
    b"q\0h\0h\0\x86",
];

#[test]
fn damaged_pickles() {
    let whole = torch(&saved(), true);
    let start = find(&whole, b"\x80\x02}");
    let stream = whole[start..start + find(&whole[start..], b"us.") + 3].to_vec();
    // What PyTorch itself wrote, with everything that training programs add.
    let path = committed().join("formats/lightning.ckpt");
    let lightning = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (from, to) = (find(&lightning, b"\x80\x02}"), find(&lightning, b"lightning/.format_version") - 46);
    let archive = |stream: &[u8]| {
        zip(&[("x/data.pkl", stream), ("x/data/0", &[0; 32]), ("x/data/1", &[0; 16]), ("x/data/2", &[0; 8])])
    };
    use_all(WeightFile::from_bytes(archive(&stream), "bytes").expect("sound"), &NAMES).expect("sound");
    let mut numbers = Numbers(13);
    let mut accepted = 0;
    for case in 0..CASES {
        if case % 4 == 0 {
            let mut file = lightning.clone();
            flip(&mut file, from, to, &mut numbers);
            let size = file.len();
            // Much of it is not needed; what is given must still be in the file.
            survives(case, size, || {
                let file = WeightFile::from_bytes(file, "bytes")?;
                let inside = file.tensors().values().all(|tensor| tensor.shape.iter().product::<usize>() <= size);
                assert!(inside, "case {case}: a tensor larger than the file");
                Ok(())
            });
            continue;
        }
        let mut stream = stream.clone();
        match numbers.below(6) {
            0 => stream.truncate(numbers.below(stream.len())),
            1 => {
                let length = stream.len();
                flip(&mut stream, 0, length, &mut numbers);
            }
            2 => {
                let at = numbers.below(stream.len());
                let piece = numbers.pick(&PIECES).repeat(1 + numbers.below(3));
                stream.splice(at..at, piece);
            }
            3 => {
                let at = numbers.below(stream.len());
                let end = (at + 1 + numbers.below(12)).min(stream.len());
                stream.drain(at..end);
            }
            4 => {
                // A run over again, as a loop of a hostile writer.
                let at = numbers.below(stream.len());
                let end = (at + 1 + numbers.below(40)).min(stream.len());
                let run = stream[at..end].repeat(1 + numbers.below(20));
                stream.splice(at..at, run);
            }
            _ => {
                let piece = numbers.pick(&PIECES).repeat(numbers.below(2000));
                stream.splice(2..2, piece);
            }
        }
        let file = archive(&stream);
        let size = file.len();
        accepted += u64::from(survives(case, size, || use_all(WeightFile::from_bytes(file, "bytes")?, &NAMES)));
    }
    check_counts(accepted, CASES * 3 / 4);
}

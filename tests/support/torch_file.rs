//! Writes PyTorch's archives: a pickle of protocol 2 and an entry for each storage (`torch/serialization.py`, `_save`).

use super::single_file::Entry;

/// A ZIP archive of entries as they are.
pub(crate) fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    archive(entries, false)
}

/// The same in the form for large files: sizes and places in fields of 64 bits (APPNOTE.TXT, 4.3.14, 4.3.15 and 4.5.3).
pub(crate) fn long_zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    archive(entries, true)
}

fn archive(entries: &[(&str, &[u8])], long: bool) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    // From the version needed to the extra field's length; neither times nor checksums are set.
    let common = |name: &str, bytes: &[u8]| {
        let mut fields = vec![0u8; 26];
        fields[14..18].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        fields[18..22].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        fields[22..24].copy_from_slice(&(name.len() as u16).to_le_bytes());
        fields
    };
    for (name, bytes) in entries {
        let mut line = [b"PK\x01\x02\0\0".to_vec(), common(name, bytes), vec![0; 14]].concat();
        line[42..46].copy_from_slice(&(file.len() as u32).to_le_bytes());
        line.extend(name.as_bytes());
        if long {
            line[20..28].fill(0xff);
            line[42..46].fill(0xff);
            // Another program's field, then the long ones: 2 + 2 bytes and 5, 2 + 2 bytes and 24.
            line[30..32].copy_from_slice(&37u16.to_le_bytes());
            line.extend(b"\x55\x54\x05\0other\x01\0\x18\0");
            for field in [bytes.len(), bytes.len(), file.len()] {
                line.extend((field as u64).to_le_bytes());
            }
        }
        directory.extend(line);
        file.extend(b"PK\x03\x04");
        file.extend(common(name, bytes));
        file.extend(name.as_bytes());
        file.extend(*bytes);
    }
    let (mut at, mut count) = (file.len() as u32, entries.len() as u16);
    file.extend(&directory);
    if long {
        let end = file.len() as u64;
        file.extend(b"PK\x06\x06");
        file.extend(44u64.to_le_bytes());
        file.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for field in [u64::from(count), u64::from(count), directory.len() as u64, u64::from(at)] {
            file.extend(field.to_le_bytes());
        }
        file.extend(b"PK\x06\x07\0\0\0\0");
        file.extend(end.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        (at, count) = (u32::MAX, u16::MAX);
    }
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(count.to_le_bytes());
    file.extend(count.to_le_bytes());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(at.to_le_bytes());
    file.extend([0, 0]);
    file
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.as_bytes());
}

fn number(pickle: &mut Vec<u8>, number: usize) {
    pickle.push(b'J');
    pickle.extend(i32::try_from(number).expect("a small number").to_le_bytes());
}

fn tuple(pickle: &mut Vec<u8>, numbers: &[usize]) {
    pickle.push(b'(');
    numbers.iter().for_each(|&n| number(pickle, n));
    pickle.push(b't');
}

/// `{"state_dict": OrderedDict(entries)}`, or the dictionary alone.
pub(crate) fn torch(entries: &[Entry], inside: bool) -> Vec<u8> {
    let mut pickle = b"\x80\x02".to_vec();
    if inside {
        pickle.extend(b"}");
        text(&mut pickle, "state_dict");
    }
    pickle.extend(b"ccollections\nOrderedDict\n)R(");
    for (index, entry) in entries.iter().enumerate() {
        let class = match entry.dtype {
            "F32" => "FloatStorage",
            "F16" => "HalfStorage",
            "I64" => "LongStorage",
            other => panic!("{}: {other}", entry.name),
        };
        let count: usize = entry.shape.iter().product();
        text(&mut pickle, &entry.name);
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut pickle, "storage");
        pickle.extend(format!("ctorch\n{class}\n").as_bytes());
        text(&mut pickle, &index.to_string());
        text(&mut pickle, "cpu");
        number(&mut pickle, count);
        pickle.extend(b"tQ");
        number(&mut pickle, 0);
        tuple(&mut pickle, &entry.shape);
        let strides = (1..=entry.shape.len()).map(|axis| entry.shape[axis..].iter().product());
        tuple(&mut pickle, &strides.collect::<Vec<usize>>());
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.push(b'u');
    if inside {
        pickle.push(b's');
    }
    pickle.push(b'.');
    let names: Vec<String> = (0..entries.len()).map(|index| format!("archive/data/{index}")).collect();
    let bytes: Vec<Vec<u8>> = entries.iter().map(|e| e.bytes.clone().unwrap_or_else(|| vec![0; e.len()])).collect();
    let mut files: Vec<(&str, &[u8])> = vec![("archive/data.pkl", &pickle), ("archive/byteorder", b"little")];
    files.extend(names.iter().zip(&bytes).map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    files.push(("archive/version", b"3\n"));
    zip(&files)
}

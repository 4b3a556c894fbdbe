//! Crafted recordings: any contents, with the lengths and checksums that belong to them. A test or a fuzzer
//! changes what a file says, and a reader still reads it.

const FILE_HEADER: usize = 24;
const BLOCK_HEADER: usize = 52;
const BLOCK_MAGIC: [u8; 4] = *b"\xb5BLK";

/// The file with right lengths and checksums, block by block; a block reaches to the next magic number. One whose
/// reserved bytes are not 0 stays as it is: damage.
pub fn repair(file: &[u8]) -> Vec<u8> {
    let Some(start) = file.first_chunk::<FILE_HEADER>() else {
        return file.to_vec();
    };
    let begins: Vec<usize> = (FILE_HEADER..file.len())
        .filter(|&at| file[at..].starts_with(&BLOCK_MAGIC))
        .collect();
    let ends = begins.iter().skip(1).copied().chain([file.len()]);
    let metadata = &file[FILE_HEADER..begins.first().copied().unwrap_or(file.len())];
    let mut start = *start;
    start[..12].copy_from_slice(b"\x89TCPST\r\n\x01\0\0\0");
    put(&mut start, 12, metadata.len());
    put(&mut start, 16, crc32c::crc32c(metadata));
    let crc = crc32c::crc32c(&start[..20]);
    put(&mut start, 20, crc);
    let mut repaired = [&start, metadata].concat();
    for (begin, end) in begins.iter().copied().zip(ends) {
        let block = &file[begin..end];
        match block.first_chunk::<BLOCK_HEADER>() {
            Some(header) if header[6..8] == [0, 0] => {
                repaired.extend(sealed(*header, &block[BLOCK_HEADER..]));
            }
            _ => repaired.extend(block),
        }
    }
    repaired
}

/// A block of this kind whose payload is stored as it is.
#[allow(
    dead_code,
    reason = "not every test that includes this file makes blocks"
)]
pub fn block(kind: u8, records: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; BLOCK_HEADER];
    header[..4].copy_from_slice(&BLOCK_MAGIC);
    header[4] = kind;
    put(&mut header, 8, records);
    sealed(header, payload)
}

/// The same, compressed.
#[allow(
    dead_code,
    reason = "not every test that includes this file makes blocks"
)]
pub fn compressed(kind: u8, records: u32, payload: &[u8], frame: &[u8]) -> Vec<u8> {
    let mut header = *block(kind, records, b"").first_chunk().expect("a header");
    header[5] = 1;
    put(&mut header, 16, payload.len());
    sealed(header, frame)
}

/// The block with the length and the checksums of this payload.
fn sealed(mut header: [u8; BLOCK_HEADER], payload: &[u8]) -> Vec<u8> {
    put(&mut header, 12, payload.len());
    if header[5] == 0 {
        put(&mut header, 16, payload.len());
    }
    put(&mut header, 20, crc32c::crc32c(payload));
    let crc = crc32c::crc32c(&header[..48]);
    put(&mut header, 48, crc);
    [&header, payload].concat()
}

fn put(bytes: &mut [u8], at: usize, number: impl TryInto<u32>) {
    let number = number.try_into().unwrap_or(u32::MAX);
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

use super::{Fault, extract, is_image, unpack};

/// What is packed in `xz()`.
fn kernel() -> Vec<u8> {
    [b"\x7fELF".to_vec(), b"cloister ".repeat(8)].concat()
}

/// Bytes from hexadecimal digits.
fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// `kernel()` by liblzma: CRC32, x86 filter, LZMA2.
fn xz() -> Vec<u8> {
    bytes(
        "fd377a585a0000016922de360201040021010800d2b974cbe0004b00145d003f9145846be4807129d7e3c4a3216bf05d\
         00000000929c9e0300012c4c3ed3dd669042990d010000000001595a",
    )
}

/// `kernel()` by `gzip -9n`. The last four bytes are its size.
fn gzip() -> Vec<u8> {
    bytes("1f8b0800000000000203ab77f5714bcec9cf2c2e492d52a0900100929c9e034c000000")
}

/// `kernel()` by the formats that end with a checksum or a mark: `bzip2 -9`, `lzma -9`, `zstd -22 --ultra`.
fn others() -> [Vec<u8>; 3] {
    [
        bytes(
            "425a6839314159265359990e07510000259580400003040a249c00a0003100d0005548cd03270546222d6a1236247448\
             a1af0bb9229c28484c8703a880",
        ),
        bytes("5d00000004ffffffffffffffff003f9145846be4807129d7e3c4a3216bf05f7ec4fffffed3b000"),
        bytes("28b52ffd04889d0000687f454c46636c6f6973746572200100a454bee5314232"),
    ]
}

/// A legacy frame of LZ4 whose blocks hold these texts, each of fewer than 15 bytes, as literals.
fn lz4(blocks: &[&[u8]]) -> Vec<u8> {
    let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
    for block in blocks {
        frame.extend((block.len() as u32 + 1).to_le_bytes());
        frame.push((block.len() as u8) << 4);
        frame.extend(*block);
    }
    frame
}

/// A bzImage with one setup sector and this payload.
fn image(packed: &[u8], size: u32) -> Vec<u8> {
    let mut image = vec![0; 1024 + 0x2cc];
    image[0x1f1] = 1;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&0x2cc_u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(packed.len() as u32 + 4).to_le_bytes());
    image.extend(packed);
    image.extend(size.to_le_bytes());
    image.extend([0xee; 64]);
    image
}

#[test]
fn a_kernel_packed_with_xz_and_the_x86_filter_comes_out_as_it_went_in() {
    let image = image(&xz(), 76);
    assert!(is_image(&image));
    assert_eq!(unpack(&image).unwrap(), kernel());
}

#[test]
fn a_kernel_packed_with_gzip_needs_no_second_size() {
    let packed = gzip();
    let (packed, size) = packed.split_last_chunk().unwrap();
    assert_eq!(unpack(&image(packed, u32::from_le_bytes(*size))).unwrap(), kernel());
}

#[test]
fn kernels_in_the_other_formats_come_out_as_they_went_in() {
    for packed in others() {
        assert_eq!(unpack(&image(&packed, 76)).unwrap(), kernel(), "{packed:x?}");
    }
}

#[test]
fn a_file_is_taken_as_an_image_as_gzip_or_as_it_is() {
    assert_eq!(extract(image(&xz(), 76)).unwrap(), kernel());
    assert_eq!(extract(gzip()).unwrap(), kernel());
    assert_eq!(extract(kernel()).unwrap(), kernel());
    assert!(matches!(extract(gzip()[..20].to_vec()), Err(Fault::Damaged(_))));
}

#[test]
fn the_checksum_of_zstd_is_compared() {
    let [.., mut packed] = others();
    *packed.last_mut().unwrap() ^= 1;
    assert_eq!(unpack(&image(&packed, 76)), Err(Fault::Damaged("zstd: the checksum is wrong".into())));
}

#[test]
fn a_kernel_packed_with_lz4_comes_out_block_by_block() {
    let image = image(&lz4(&[b"\x7fELF one", b" and two"]), 16);
    assert_eq!(unpack(&image).unwrap(), b"\x7fELF one and two");
}

#[test]
fn a_kernel_that_is_not_packed_is_taken_as_it_is() {
    assert_eq!(unpack(&image(b"\x7fELF", 4)).unwrap(), b"\x7fELF");
}

#[test]
fn a_wrong_length_is_refused_whichever_way_it_is_wrong() {
    for size in [0, 15, 17, u32::MAX] {
        assert!(matches!(unpack(&image(&lz4(&[b"\x7fELF one", b" and two"]), size)), Err(Fault::Damaged(_))), "{size}");
    }
    for (packed, size) in others().iter().chain([&xz()]).flat_map(|packed| [(packed, 75), (packed, 77)]) {
        assert!(matches!(unpack(&image(packed, size)), Err(Fault::Damaged(_))), "{size}: {packed:x?}");
    }
}

#[test]
fn every_shortened_image_is_refused() {
    let whole = image(&xz(), 76);
    for length in 0..whole.len() - 64 {
        assert!(unpack(&whole[..length]).is_err(), "cut at {length}");
    }
    for packed in others().into_iter().chain([xz()]) {
        for length in 0..packed.len() {
            assert!(unpack(&image(&packed[..length], 76)).is_err(), "packed bytes cut at {length}: {packed:x?}");
        }
    }
}

#[test]
fn other_packings_are_named() {
    for (magic, name) in [(b"\x89LZO", "LZO"), (b"what", "unknown")] {
        let fault = unpack(&image(magic, 76)).unwrap_err();
        assert!(matches!(fault, Fault::Packing(_)) && fault.to_string().contains(name), "{fault}");
    }
}

#[test]
fn an_old_image_and_other_files_are_told_apart() {
    let mut old = image(&xz(), 76);
    old[0x206] = 7;
    assert_eq!(unpack(&old), Err(Fault::Old));
    assert!(!is_image(b"\x7fELF") && !is_image(&[0; 4096]));
}

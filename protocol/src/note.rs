//! The ELF note by which a guest kernel says what it was built for.
//!
//! A note of name [`NAME`] and type [`TYPE_ABI`] whose descriptor is two little-endian `u16`: the
//! wire version's major and minor.

/// Section that holds the note.
pub const SECTION: &str = ".note.cloister";
/// Owner name, with its terminating zero.
pub const NAME: [u8; 9] = *b"Cloister\0";
/// Note type of the wire version.
pub const TYPE_ABI: u32 = 1;

/// The note as the bytes that a guest links into [`SECTION`].
#[derive(Debug, Clone, Copy, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
pub struct AbiNote {
    name_size: u32,
    descriptor_size: u32,
    kind: u32,
    name: [u8; 12],
    major: u16,
    minor: u16,
}

impl AbiNote {
    /// The note of this crate's version.
    pub const CURRENT: AbiNote = AbiNote {
        name_size: 9,
        descriptor_size: 4,
        kind: TYPE_ABI,
        name: *b"Cloister\0\0\0\0",
        major: crate::version::CURRENT.major,
        minor: crate::version::CURRENT.minor,
    };
}

const _: () = assert!(size_of::<AbiNote>() == 28);

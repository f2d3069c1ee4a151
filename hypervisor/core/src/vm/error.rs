//! Why a system image is refused or a VM cannot be built, each with what is needed to say so.

use core::fmt;

use protocol::Status;
use protocol::version::WireVersion;

/// Why a system image is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageError {
    /// Fewer bytes than a header.
    NoHeader {
        /// Bytes that there are.
        bytes: u64,
    },
    /// It does not begin with the magic bytes.
    Magic,
    /// Header and manifest are of another format.
    Format {
        /// The image's format.
        found: u16,
    },
    /// The header does not match its checksum.
    HeaderChecksum,
    /// A reserved field of the header is not zero.
    HeaderReserved,
    /// The image is longer or shorter than its header says.
    Length {
        /// Bytes as the header says.
        stated: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// The manifest reaches beyond the image.
    ManifestLength {
        /// Bytes of the manifest as the header says.
        stated: u64,
    },
    /// The bytes behind the header do not match their checksum.
    BodyChecksum,
    /// The manifest cannot be decoded, or bytes are left over.
    ManifestEncoding,
    /// The number of VMs is 0 or over the limit.
    VmCount {
        /// VMs in the manifest.
        found: u64,
    },
    /// Something is wrong with a VM.
    Vm {
        /// Its number.
        vm: u32,
        /// What.
        problem: Problem,
    },
    /// Something is wrong with a channel.
    Channel {
        /// Its position in the manifest.
        channel: u32,
        /// What.
        problem: Problem,
    },
}

/// What is wrong with a part of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// A name is empty or too long.
    NameLength {
        /// Its bytes.
        bytes: u64,
    },
    /// A name holds something else than visible ASCII characters.
    NameCharacter,
    /// An earlier one has the same name.
    NameTaken,
    /// The kernel was built for a version that cannot be served.
    Version {
        /// That version.
        wanted: WireVersion,
    },
    /// A number is below or over what is possible.
    Number {
        /// Which.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The least possible.
        least: u64,
        /// The greatest possible.
        most: u64,
    },
    /// The command line holds a zero byte.
    CommandLine,
    /// A segment is empty, not page-aligned, or has more bytes in the image than in memory.
    SegmentShape {
        /// Its address.
        address: u64,
    },
    /// A segment is not wholly where a guest kernel may lie.
    SegmentPlace {
        /// Its address.
        address: u64,
    },
    /// A segment overlaps the one before it or comes before it.
    SegmentOrder {
        /// Its address.
        address: u64,
    },
    /// A segment asks for large pages.
    SegmentFlags {
        /// Its address.
        address: u64,
    },
    /// Bytes to load do not lie page-aligned within the image, behind the manifest.
    Payload {
        /// Where they should be.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// The entry is in no executable segment.
    Entry {
        /// Its address.
        address: u64,
    },
    /// What is loaded at the start does not fit into the VM's memory.
    MemoryTooSmall {
        /// Frames that are needed.
        needed: u64,
        /// Frames of the VM.
        found: u64,
    },
    /// An end of a channel is no VM, or both are the same.
    Ends {
        /// The ends.
        ends: [u32; 2],
    },
    /// The labels of the two ends do not let information flow both ways.
    Labels {
        /// The ends.
        ends: [u32; 2],
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader { bytes } => {
                write!(f, "the system image has only {bytes} bytes; pack it again")
            }
            Self::Magic => f.write_str("the boot module is not a Cloister system image"),
            Self::Format { found } => write!(
                f,
                "the system image has format {found}, but this hypervisor takes format {}",
                protocol::image::FORMAT
            ),
            Self::HeaderChecksum => {
                f.write_str("the header of the system image is damaged: its checksum differs")
            }
            Self::HeaderReserved => {
                f.write_str("the header of the system image uses fields that have no meaning yet")
            }
            Self::Length { stated, found } => write!(
                f,
                "the system image is incomplete: {stated} bytes were packed, {found} are here"
            ),
            Self::ManifestLength { stated } => write!(
                f,
                "the manifest of {stated} bytes reaches beyond the system image"
            ),
            Self::BodyChecksum => f.write_str("the system image is damaged: its checksum differs"),
            Self::ManifestEncoding => {
                f.write_str("the manifest of the system image cannot be decoded")
            }
            Self::VmCount { found } => write!(
                f,
                "the system has {found} VMs; 1 to {} are possible",
                protocol::layout::limit::VMS
            ),
            Self::Vm { vm, problem } => write!(f, "VM {vm}: {problem}"),
            Self::Channel { channel, problem } => write!(f, "channel {channel}: {problem}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameLength { bytes } => write!(
                f,
                "a name has {bytes} bytes; 1 to {} are possible",
                protocol::layout::limit::NAME
            ),
            Self::NameCharacter => {
                f.write_str("a name holds a character that is not visible ASCII")
            }
            Self::NameTaken => f.write_str("its name is taken already"),
            Self::Version { wanted } => write!(
                f,
                "its kernel was built for ABI {}.{}, but this hypervisor serves {}.{}",
                wanted.major,
                wanted.minor,
                protocol::version::CURRENT.major,
                protocol::version::CURRENT.minor
            ),
            Self::Number {
                what,
                found,
                least,
                most,
            } => write!(f, "{what} is {found}; {least} to {most} are possible"),
            Self::CommandLine => f.write_str("its command line holds a zero byte"),
            Self::SegmentShape { address } => write!(
                f,
                "the segment at {address:#x} is empty, not page-aligned, or larger in the image than in memory"
            ),
            Self::SegmentPlace { address } => write!(
                f,
                "the segment at {address:#x} lies where no guest kernel may lie"
            ),
            Self::SegmentOrder { address } => write!(
                f,
                "the segment at {address:#x} does not lie behind the one before it"
            ),
            Self::SegmentFlags { address } => {
                write!(f, "the segment at {address:#x} asks for large pages")
            }
            Self::Payload { offset, bytes } => write!(
                f,
                "{bytes} bytes at {offset:#x} do not lie page-aligned within the system image"
            ),
            Self::Entry { address } => {
                write!(f, "its entry {address:#x} is in no executable segment")
            }
            Self::MemoryTooSmall { needed, found } => write!(
                f,
                "it has {found} frames of memory, but its kernel, modules and start need {needed}"
            ),
            Self::Ends { ends: [one, two] } => {
                write!(f, "its ends {one} and {two} are not two VMs of the system")
            }
            Self::Labels { ends: [one, two] } => write!(
                f,
                "the labels of its ends {one} and {two} do not allow a flow both ways"
            ),
        }
    }
}

impl core::error::Error for ImageError {}

/// Why a VM cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildError {
    /// The machine has too few free frames, or no free run of the needed length.
    OutOfMemory {
        /// What they are for.
        what: &'static str,
        /// Length of the run that was looked for.
        frames: u64,
    },
    /// The VM's pool is too small for the tables of its start.
    PoolTooSmall {
        /// Frames that the pool had.
        frames: u64,
    },
    /// A page of the start could not be mapped, although the manifest was checked.
    NotMapped {
        /// Its address.
        address: u64,
        /// Why.
        status: Status,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { what, frames } => write!(
                f,
                "no {frames} free frames are left for {what}; give the machine more memory or the VM less"
            ),
            Self::PoolTooSmall { frames } => write!(
                f,
                "a pool of {frames} frames is too small for the first page tables; raise pool_frames"
            ),
            Self::NotMapped { address, status } => {
                write!(f, "the page at {address:#x} could not be mapped: {status}")
            }
        }
    }
}

impl core::error::Error for BuildError {}

//! Why a system image is refused or a VM cannot be built, each with what is needed to say so.

use core::fmt;

use protocol::Status;
use protocol::image::FORMAT;
use protocol::layout::limit::{NAME, VMS};
use protocol::version::{CURRENT, WireVersion};

/// Declares errors: each variant once, with the sentence that tells it.
macro_rules! errors {
    ($(
        $(#[doc = $doc:literal])* $Name:ident {
            $($(#[doc = $vdoc:literal])* $Variant:ident $({ $($(#[doc = $fdoc:literal])* $field:ident: $Field:ty,)* })? => $text:literal $(, $argument:expr)*;)*
        }
    )*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $Name {
            $($(#[doc = $vdoc])* $Variant $({ $($(#[doc = $fdoc])* $field: $Field,)* })?,)*
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$Variant $({ $($field),* })? => write!(f, $text $(, $argument)*),)*
                }
            }
        }

        impl core::error::Error for $Name {}
    )*};
}

errors! {
    /// Why a system image is refused.
    ImageError {
        /// Fewer bytes than a header.
        NoHeader {
            /// Bytes that there are.
            bytes: u64,
        } => "the system image has only {bytes} bytes; pack it again";
        /// It does not begin with the magic bytes.
        Magic => "the boot module is not a Cloister system image";
        /// Header and manifest are of another format.
        Format {
            /// The image's format.
            found: u16,
        } => "the system image has format {found}, but this hypervisor takes format {FORMAT}";
        /// The header does not match its checksum.
        HeaderChecksum => "the header of the system image is damaged: its checksum differs";
        /// A reserved field of the header is not zero.
        HeaderReserved => "the header of the system image uses fields that have no meaning yet";
        /// The image is longer or shorter than its header says.
        Length {
            /// Bytes as the header says.
            stated: u64,
            /// Bytes that there are.
            found: u64,
        } => "the system image is incomplete: {stated} bytes were packed, {found} are here";
        /// The manifest reaches beyond the image.
        ManifestLength {
            /// Bytes of the manifest as the header says.
            stated: u64,
        } => "the manifest of {stated} bytes reaches beyond the system image";
        /// The bytes behind the header do not match their checksum.
        BodyChecksum => "the system image is damaged: its checksum differs";
        /// The manifest cannot be decoded, or bytes are left over.
        ManifestEncoding => "the manifest of the system image cannot be decoded";
        /// The number of VMs is 0 or over the limit.
        VmCount {
            /// VMs in the manifest.
            found: u64,
        } => "the system has {found} VMs; 1 to {VMS} are possible";
        /// Something is wrong with a VM.
        Vm {
            /// Its number.
            vm: u32,
            /// What.
            problem: Problem,
        } => "VM {vm}: {problem}";
        /// Something is wrong with a channel.
        Channel {
            /// Its position in the manifest.
            channel: u32,
            /// What.
            problem: Problem,
        } => "channel {channel}: {problem}";
    }

    /// What is wrong with a part of a manifest.
    Problem {
        /// A name is empty or too long.
        NameLength {
            /// Its bytes.
            bytes: u64,
        } => "a name has {bytes} bytes; 1 to {NAME} are possible";
        /// A name holds something else than visible ASCII characters.
        NameCharacter => "a name holds a character that is not visible ASCII";
        /// An earlier one has the same name.
        NameTaken => "its name is taken already";
        /// The kernel was built for a version that cannot be served.
        Version {
            /// That version.
            wanted: WireVersion,
        } => "its kernel was built for ABI {}.{}, but this hypervisor serves {}.{}",
            wanted.major, wanted.minor, CURRENT.major, CURRENT.minor;
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
        } => "{what} is {found}; {least} to {most} are possible";
        /// The command line holds a zero byte.
        CommandLine => "its command line holds a zero byte";
        /// A segment is empty, not page-aligned, or has more bytes in the image than in memory.
        SegmentShape {
            /// Its address.
            address: u64,
        } => "the segment at {address:#x} is empty, not page-aligned, or larger in the image than in memory";
        /// A segment is not wholly where a guest kernel may lie.
        SegmentPlace {
            /// Its address.
            address: u64,
        } => "the segment at {address:#x} lies where no guest kernel may lie";
        /// A segment overlaps the one before it or comes before it.
        SegmentOrder {
            /// Its address.
            address: u64,
        } => "the segment at {address:#x} does not lie behind the one before it";
        /// A segment asks for large pages.
        SegmentFlags {
            /// Its address.
            address: u64,
        } => "the segment at {address:#x} asks for large pages";
        /// Bytes to load do not lie page-aligned within the image, behind the manifest.
        Payload {
            /// Where they should be.
            offset: u64,
            /// How many.
            bytes: u64,
        } => "{bytes} bytes at {offset:#x} do not lie page-aligned within the system image";
        /// The entry is in no executable segment.
        Entry {
            /// Its address.
            address: u64,
        } => "its entry {address:#x} is in no executable segment";
        /// What is loaded at the start does not fit into the VM's memory.
        MemoryTooSmall {
            /// Frames that are needed.
            needed: u64,
            /// Frames of the VM.
            found: u64,
        } => "it has {found} frames of memory, but its kernel, modules and start need {needed}";
        /// An end of a channel is no VM, or both are the same.
        Ends {
            /// The ends.
            ends: [u32; 2],
        } => "its ends {ends:?} are not two VMs of the system";
        /// The labels of the two ends do not let information flow both ways.
        Labels {
            /// The ends.
            ends: [u32; 2],
        } => "the labels of its ends {ends:?} do not allow a flow both ways";
    }

    /// Why a VM cannot be built.
    BuildError {
        /// The machine has too few free frames, or no free run of the needed length.
        OutOfMemory {
            /// What they are for.
            what: &'static str,
            /// Length of the run that was looked for.
            frames: u64,
        } => "no {frames} free frames are left for {what}; give the machine more memory or the VM less";
        /// The VM's pool is too small for the tables of its start.
        PoolTooSmall {
            /// Frames that the pool had.
            frames: u64,
        } => "a pool of {frames} frames is too small for the first page tables; raise pool_frames";
        /// A page of the start could not be mapped, although the manifest was checked.
        NotMapped {
            /// Its address.
            address: u64,
            /// Why.
            status: Status,
        } => "the page at {address:#x} could not be mapped: {status}";
    }
}

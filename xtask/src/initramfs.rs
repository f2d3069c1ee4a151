//! The initial RAM disk of Linux VMs that bring none: busybox, a first program that ends in a shell, and
//! what a system adds.
//!
//! Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst, for the format `newc`.

/// The first program: it makes the usual file systems, runs a shell with job control on the console, or what `run=`
/// on the kernel's command line names, and turns the machine off when that ends.
const INIT: &str = "\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM=vt100
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
hostname cloister
cd /root
setsid cttyhack ${run:-sh}
poweroff -f
";

/// Kinds of files, as `st_mode` has them.
mod kind {
    pub(super) const FOLDER: u32 = 0o040_000;
    pub(super) const CHARACTERS: u32 = 0o020_000;
    pub(super) const FILE: u32 = 0o100_000;
    pub(super) const LINK: u32 = 0o120_000;
}

/// The disk with busybox and programs, which are found as `/bin/NAME`.
pub fn build(busybox: &[u8], programs: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "proc", "root", "sys", "tmp"] {
        archive.add(folder, kind::FOLDER | 0o755, (0, 0), b"");
    }
    // What the first program writes to before it has made /dev.
    archive.add("dev/console", kind::CHARACTERS | 0o600, (5, 1), b"");
    archive.add("bin/busybox", kind::FILE | 0o755, (0, 0), busybox);
    archive.add("bin/sh", kind::LINK | 0o777, (0, 0), b"busybox");
    archive.add("init", kind::FILE | 0o755, (0, 0), INIT.as_bytes());
    for (name, bytes) in programs {
        archive.add(&format!("bin/{name}"), kind::FILE | 0o755, (0, 0), bytes);
    }
    archive.finish()
}

/// A cpio archive in the format `newc`. It is not packed: unpacking takes longer than reading.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    /// Adds a file. `device` is the number of a device file.
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.files += 1;
        self.entry(self.files, name, mode, device, content);
    }

    /// Writes an entry: a header of hexadecimal numbers, the name, the content, each padded to four bytes.
    fn entry(&mut self, number: u32, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let links = if mode & kind::FOLDER == kind::FOLDER { 2 } else { 1 };
        let name_bytes = name.len() + 1;
        self.bytes.extend(b"070701");
        // Owner, group and time are 0: the archive is the same whoever makes it, whenever.
        let fields = [number, mode, 0, 0, links, 0, length(content.len()), 0, 0, device.0, device.1];
        for field in fields.into_iter().chain([length(name_bytes), 0]) {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    /// Zeros up to the next multiple of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The archive with the entry that ends it.
    fn finish(mut self) -> Vec<u8> {
        self.entry(0, "TRAILER!!!", 0, (0, 0), b"");
        self.bytes
    }
}

/// A length as the format has it. Longer files than it can have do not fit into this host's memory twice.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{INIT, build};

    /// An entry: name, mode, device, content.
    type Entry = (String, u32, (u32, u32), Vec<u8>);

    /// Reads an archive back by what the format's description says.
    fn read(archive: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&archive[at..at + 6], b"070701", "at {at}");
            let field = |index: usize| {
                let text = std::str::from_utf8(&archive[at + 6 + 8 * index..][..8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let name = String::from_utf8(archive[at + 110..][..name_size - 1].to_vec()).unwrap();
            assert_eq!(archive[at + 110 + name_size - 1], 0);
            let start = (at + 110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!((start, size), (archive.len(), 0));
                return entries;
            }
            entries.push((name, field(1), (field(9), field(10)), archive[start..][..size].to_vec()));
            at = (start + size).next_multiple_of(4);
        }
    }

    #[test]
    fn the_archive_reads_back_whatever_the_lengths() {
        for length in 0..9 {
            let programs = [("p".repeat(length + 1), vec![7; length]), ("q".to_owned(), vec![8])];
            let entries = read(&build(b"busy", &programs));
            let file = |name: &str| entries.iter().find(|entry| entry.0 == name).unwrap().clone();
            assert_eq!(file("bin/busybox").3, b"busy");
            assert_eq!(
                file(&format!("bin/{}", programs[0].0)),
                (format!("bin/{}", programs[0].0), 0o100_755, (0, 0), vec![7; length])
            );
            assert_eq!(file("bin/q").3, [8]);
            assert_eq!(file("init").3, INIT.as_bytes());
            assert_eq!(file("dev/console"), ("dev/console".into(), 0o020_600, (5, 1), Vec::new()));
            assert_eq!(file("bin/sh"), ("bin/sh".into(), 0o120_777, (0, 0), b"busybox".to_vec()));
            assert_eq!(file("proc").1, 0o040_755);
        }
    }

    #[test]
    fn folders_come_before_what_lies_in_them() {
        let names: Vec<String> = read(&build(b"", &[])).into_iter().map(|entry| entry.0).collect();
        for (index, name) in names.iter().enumerate() {
            if let Some((folder, _)) = name.rsplit_once('/') {
                assert!(names[..index].iter().any(|other| other == folder), "{name}");
            }
        }
    }
}

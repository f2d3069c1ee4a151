//! Debian's packages, downloaded with apt-get and unpacked into folders of our own. Nothing is installed,
//! and nobody has to be root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::output;
use crate::tree;

/// A kernel that Debian builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// For virtual machines: few drivers.
    Cloud,
    /// For any machine.
    Generic,
}

impl Flavour {
    /// Every one, with its word.
    pub const ALL: [(&str, Flavour); 2] = [("cloud", Flavour::Cloud), ("generic", Flavour::Generic)];

    /// The package that always depends on the current kernel.
    fn package(self) -> &'static str {
        match self {
            Flavour::Cloud => "linux-image-cloud-amd64",
            Flavour::Generic => "linux-image-amd64",
        }
    }
}

/// Where packages are kept, unpacked.
pub fn shelf() -> PathBuf {
    tree::work().join("debian")
}

/// The current kernel of a flavour, as of the day when it was fetched for the first time.
pub fn kernel(flavour: Flavour) -> Result<PathBuf, String> {
    let folder = shelf().join(flavour.package());
    if let Some(kernel) = kernel_in(&folder) {
        return Ok(kernel);
    }
    let apt = Apt::new(&shelf())?;
    apt.update()?;
    let package = apt.dependency(flavour.package())?;
    // The modules are many times as large, and a VM has no devices for them.
    apt.unpack(&[&package], &["./boot"], &folder)?;
    kernel_in(&folder).ok_or_else(|| format!("the package {package} holds no kernel"))
}

/// The kernel in an unpacked package.
fn kernel_in(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder.join("boot")).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
}

/// A busybox that needs no libraries.
pub fn busybox() -> Result<PathBuf, String> {
    let package = "busybox-static";
    let folder = shelf().join(package);
    // Where newer packages have it.
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| folder.join(place));
    let found = || places.iter().find(|path| path.is_file()).cloned();
    if let Some(path) = found() {
        return Ok(path);
    }
    let apt = Apt::new(&shelf())?;
    apt.update()?;
    apt.unpack(&[package], &[], &folder)?;
    found().ok_or_else(|| format!("the package {package} holds no busybox"))
}

/// apt-get with lists of its own: those of the system may be missing or old, and belong to root.
#[derive(Debug)]
pub struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// With its lists in a folder.
    pub fn new(folder: &Path) -> Result<Apt, String> {
        if super::find("apt-get").is_none() {
            return Err("there is no apt-get here".to_owned());
        }
        let lists = folder.join("lists");
        make(&lists.join("partial"))?;
        let options = [
            "Debug::NoLocking=1".to_owned(),
            // It would give up root, and then may not write here.
            "APT::Sandbox::User=root".to_owned(),
            format!("Dir::State::Lists={}", lists.display()),
            format!("Dir::Cache={}", folder.join("cache").display()),
        ];
        let options = options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect();
        Ok(Apt { folder: folder.to_path_buf(), options })
    }

    /// Brings the lists up to date.
    pub fn update(&self) -> Result<(), String> {
        self.run(&["update", "-q"], &self.folder)
    }

    /// What `apt-get install` of a package would download: lines `'URI' FILE SIZE HASH`.
    pub fn listed(&self, package: &str) -> String {
        let words = ["--print-uris", "-y", "--no-install-recommends", "install", package];
        output(Command::new("apt-get").args(&self.options).args(words)).unwrap_or_default()
    }

    /// The one package that another depends on, such as the current kernel.
    fn dependency(&self, package: &str) -> Result<String, String> {
        let listed = output(Command::new("apt-cache").args(&self.options).args(["depends", "--important", package]));
        let listed = listed.unwrap_or_default();
        let name = listed.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        name.map(str::to_owned).ok_or_else(|| format!("apt-cache knows no package {package}, or not what it needs"))
    }

    /// Downloads packages and unpacks them (or only these members) into a folder, which is there only when
    /// all went well.
    pub fn unpack(&self, packages: &[&str], members: &[&str], folder: &Path) -> Result<(), String> {
        let name = folder.file_name().unwrap_or_default();
        let downloads = self.folder.join("packages").join(name);
        make(&downloads.join("partial"))?;
        eprintln!("xtask: fetching Debian's {}; nothing is installed", packages.join(" "));
        let words: Vec<&str> = std::iter::once("download").chain(packages.iter().copied()).collect();
        self.run(&words, &downloads)?;
        let unpacked = self.folder.join("unpacked").join(name);
        make(&unpacked)?;
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        for entry in std::fs::read_dir(&downloads).map_err(failed)?.flatten() {
            let file = entry.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                unpack(&file, members, &unpacked)?;
            }
        }
        if folder.exists() {
            // Left behind by a run that was ended.
            std::fs::remove_dir_all(folder).map_err(failed)?;
        }
        std::fs::rename(&unpacked, folder).map_err(failed)?;
        std::fs::remove_dir_all(&downloads).map_err(failed)
    }

    /// Runs apt-get in a folder. What it says goes to standard error.
    fn run(&self, words: &[&str], folder: &Path) -> Result<(), String> {
        let status = Command::new("apt-get")
            .args(&self.options)
            .args(words)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            .status()
            .map_err(|error| format!("apt-get does not start: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("apt-get {} ended with {status}", words.join(" "))) }
    }
}

/// Makes a folder and those above it.
fn make(folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

/// Unpacks members of a package, or all of it.
fn unpack(package: &Path, members: &[&str], folder: &Path) -> Result<(), String> {
    let failed = || format!("{} cannot be unpacked", package.display());
    let mut reader = Command::new("dpkg-deb");
    reader.arg("--fsys-tarfile").arg(package).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut reader = reader.spawn().map_err(|error| format!("dpkg-deb does not start: {error}"))?;
    let archive = reader.stdout.take().ok_or_else(failed)?;
    let written = Command::new("tar").arg("-xf-").arg("-C").arg(folder).args(members).stdin(archive).status();
    let is_read = reader.wait().is_ok_and(|status| status.success());
    if is_read && written.is_ok_and(|status| status.success()) { Ok(()) } else { Err(failed()) }
}

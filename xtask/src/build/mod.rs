//! Builds hypervisor and guests with cargo and says where their files are.
//!
//! Each program is built by its own cargo call: features of a shared crate (an allocator in
//! `protocol`, say) must not leak from one program into another.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::error::{Context, Exit, Failure};
use crate::host::debian;
use crate::system::Artifact;
use crate::system::assemble::{Artifacts, Missing};
use crate::tree;

/// What hypervisor and guests are built for.
pub const TARGET: &str = "x86_64-unknown-none";

/// Optimised or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// `--release`.
    Release,
    /// The usual one.
    Debug,
}

/// Which hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// As it is released.
    Plain,
    /// It recounts all frames.
    Recounting,
    /// It leaves the Xen personality out.
    WithoutXen,
}

impl Variant {
    /// Its name, and what cargo is told.
    fn features(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Variant::Plain => None,
            Variant::Recounting => Some(("recount", &["--features", "recount"])),
            Variant::WithoutXen => Some(("without-xen", &["--no-default-features"])),
        }
    }
}

/// Builds programs, each once.
#[derive(Debug)]
pub struct Builder {
    profile: Profile,
    built: HashMap<Artifact, Result<PathBuf, Missing>>,
}

impl Builder {
    /// A builder that has built nothing yet.
    pub fn new(profile: Profile) -> Builder {
        Builder { profile, built: HashMap::new() }
    }

    /// The hypervisor's ELF file.
    pub fn hypervisor(&mut self, variant: Variant) -> Result<PathBuf, Failure> {
        let built = match variant.features() {
            None => self.obtain(&plain_hypervisor()),
            Some((name, arguments)) => self.variant(name, arguments),
        };
        match built {
            Ok(path) => Ok(path),
            Err(Missing::Absent(what) | Missing::Broken(what) | Missing::Package(what)) => {
                Err(Failure::new(Exit::Usage, format_args!("error: the hypervisor was not built: {what}")))
            }
        }
    }

    /// A hypervisor with other features. cargo puts it where it puts the plain one, so it is copied, and
    /// the plain one is asked for again when it is needed.
    fn variant(&mut self, name: &str, arguments: &[&str]) -> Result<PathBuf, Missing> {
        let key = Artifact::Package("hv".to_owned(), Some(name.to_owned()));
        if let Some(result) = self.built.get(&key) {
            return result.clone();
        }
        let result = self.cargo(&tree::root(), Some("hv"), None, arguments).and_then(|path| {
            let copy = tree::work().join(format!("hv-{name}"));
            let copied = std::fs::create_dir_all(tree::work()).and_then(|()| std::fs::copy(&path, &copy));
            copied.map(|_| copy).map_err(|error| Missing::Broken(format!("{}: {error}", path.display())))
        });
        self.built.remove(&plain_hypervisor());
        self.built.insert(key, result.clone());
        result
    }

    /// Builds a program with cargo in a folder.
    fn cargo(
        &self,
        folder: &Path,
        package: Option<&str>,
        bin: Option<&str>,
        more: &[&str],
    ) -> Result<PathBuf, Missing> {
        let mut command = Command::new("cargo");
        command.current_dir(folder).args(["build", "--target", TARGET, "--message-format=json-render-diagnostics"]);
        if self.profile == Profile::Release {
            command.arg("--release");
        }
        if let Some(package) = package {
            command.args(["--package", package]);
        }
        if let Some(bin) = bin {
            command.args(["--bin", bin]);
        }
        command.args(more);
        // Without the first, defmt drops all but errors; without the second, log messages have no
        // file and line, which defmt takes from the debug information of its statics.
        for (name, value) in [("DEFMT_LOG", "info"), ("CARGO_PROFILE_RELEASE_DEBUG", "2")] {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        let (good, executables) = run_cargo(&mut command).map_err(|failure| Missing::Broken(failure.message))?;
        let named = package.or(bin).map_or_else(|| folder.display().to_string(), str::to_owned);
        if !good {
            let absent = package.is_some_and(|name| !workspace_has(folder, name));
            return Err(if absent {
                Missing::Absent(format!("no package of the workspace is named `{named}`"))
            } else {
                Missing::Broken(format!("`{named}` does not build"))
            });
        }
        pick(executables, bin, package)
            .ok_or_else(|| Missing::Absent(format!("`{named}` has no such program; `bin` names one")))
    }
}

impl Artifacts for Builder {
    fn obtain(&mut self, artifact: &Artifact) -> Result<PathBuf, Missing> {
        if let Some(result) = self.built.get(artifact) {
            return result.clone();
        }
        let result = match artifact {
            Artifact::Package(package, bin) => self.cargo(&tree::root(), Some(package), bin.as_deref(), &[]),
            Artifact::Folder(folder, bin) => self.cargo(folder, None, bin.as_deref(), &[]),
            Artifact::Made(path) => make(path),
            Artifact::DebianKernel(flavour) => debian::kernel(*flavour).map_err(Missing::Package),
            Artifact::Busybox => debian::busybox().map_err(Missing::Package),
            Artifact::File(path) if path.is_file() => Ok(path.clone()),
            Artifact::File(path) => Err(Missing::Absent(format!("there is no file `{}`", path.display()))),
        };
        self.built.insert(artifact.clone(), result.clone());
        result
    }
}

/// The hypervisor as it is released.
fn plain_hypervisor() -> Artifact {
    Artifact::Package("hv".to_owned(), None)
}

/// Runs `make` for a file, in its folder.
fn make(path: &Path) -> Result<PathBuf, Missing> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let file = path.file_name().unwrap_or_default();
    let status = Command::new("make")
        .arg("--silent")
        .arg("-C")
        .arg(folder)
        .arg(file)
        .env_remove("CARGO_TARGET_DIR")
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status();
    match status {
        Ok(status) if status.success() => Ok(path.to_path_buf()),
        Ok(status) => Err(Missing::Broken(format!("make ended with {status}"))),
        Err(error) => Err(Missing::Broken(format!("make does not start: {error}"))),
    }
}

/// Runs cargo: whether it went well, and the programs it made, with their names.
fn run_cargo(command: &mut Command) -> Result<(bool, Vec<(String, PathBuf)>), Failure> {
    if std::io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cargo does not start")?;
    let talk = child.stderr.take().map(|stderr| {
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // One such line for each of many small builds tells nobody anything.
                if !line.contains("Finished") {
                    eprintln!("{line}");
                }
            }
        })
    });
    let mut executables = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            executables.extend(executable(&line));
        }
    }
    let status = child.wait().context("waiting for cargo")?;
    if let Some(talk) = talk {
        // The thread only prints; if it died, the build's result stands all the same.
        let _ = talk.join();
    }
    Ok((status.success(), executables))
}

/// The program that a line of cargo's messages tells about, with its name.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message.get("reason")?.as_str()? != "compiler-artifact" {
        return None;
    }
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), PathBuf::from(path)))
}

/// The program that is meant: the one named, or the only one, or the one named like its package.
fn pick(executables: Vec<(String, PathBuf)>, bin: Option<&str>, package: Option<&str>) -> Option<PathBuf> {
    let wanted = bin.or(if executables.len() > 1 { package } else { None });
    executables.into_iter().find(|(name, _)| wanted.is_none_or(|wanted| name == wanted)).map(|(_, path)| path)
}

/// Whether the workspace of a folder has a package of that name. Only asked after a failure.
fn workspace_has(folder: &Path, name: &str) -> bool {
    packages(folder).is_none_or(|packages| packages.iter().any(|package| package == name))
}

/// The names of a workspace's packages, if cargo tells.
pub fn packages(folder: &Path) -> Option<Vec<String>> {
    let metadata = metadata(folder, &["--no-deps"])?;
    let packages = metadata.get("packages")?.as_array()?;
    Some(packages.iter().filter_map(|package| package.get("name")?.as_str().map(str::to_owned)).collect())
}

/// What `cargo metadata` says.
pub fn metadata(folder: &Path, arguments: &[&str]) -> Option<Value> {
    let output = Command::new("cargo")
        .current_dir(folder)
        .args(["metadata", "--format-version", "1"])
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

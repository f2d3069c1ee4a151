//! `new`: writes a guest kernel outside this repository that builds and boots as generated.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::write;
use crate::error::{Context, Exit, Failure};
use crate::tree;

/// Arguments of `new`.
#[derive(Debug, Args)]
pub struct Options {
    /// The kernel's name: letters, digits, - and _.
    name: String,
    /// The folder to make (otherwise one of that name beside the checkout).
    #[arg(long)]
    path: Option<PathBuf>,
    /// The language.
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
}

/// Languages that a guest can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// Rust with the SDK.
    Rust,
    /// C with the header and the static library.
    C,
}

impl Language {
    /// As the option names it.
    pub fn name(self) -> &'static str {
        match self {
            Language::Rust => "rust",
            Language::C => "c",
        }
    }

    /// The files: path and text, with `{NAME}` and `{CHECKOUT}` to be replaced.
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Language::Rust => &[
                ("Cargo.toml", include_str!("../../templates/rust/Cargo.toml.in")),
                ("build.rs", include_str!("../../templates/rust/build.rs.in")),
                ("src/main.rs", include_str!("../../templates/rust/main.rs.in")),
                ("system.toml", include_str!("../../templates/rust/system.toml.in")),
                ("README.md", include_str!("../../templates/rust/README.md.in")),
                (".gitignore", "/target\n"),
                (".cargo/config.toml", include_str!("../../templates/config.toml.in")),
            ],
            Language::C => &[
                ("Makefile", include_str!("../../templates/c/Makefile.in")),
                ("main.c", include_str!("../../templates/c/main.c.in")),
                ("system.toml", include_str!("../../templates/c/system.toml.in")),
                ("README.md", include_str!("../../templates/c/README.md.in")),
                (".gitignore", "/target\n*.o\n*.elf\n"),
                (".cargo/config.toml", include_str!("../../templates/config.toml.in")),
            ],
        }
    }
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let folder = match &options.path {
        Some(path) => path.clone(),
        None => tree::root().join("..").join(&options.name),
    };
    generate(&options.name, &folder, options.lang)?;
    let folder = folder.canonicalize().context(folder.display())?;
    println!("{}", folder.display());
    println!("  cd {}\n  cargo xtask run system.toml", folder.display());
    Ok(Exit::Success)
}

/// Writes the files of a guest into a folder that is new or empty.
pub fn generate(name: &str, folder: &Path, language: Language) -> Result<(), Failure> {
    check_name(name)?;
    if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        let what = format!("`{}` is not empty", folder.display());
        return Err(Failure::usage(format_args!("{what}\n  try: --path with a new folder")));
    }
    let root = tree::root().canonicalize().context("the checkout's folder")?;
    let checkout = root.display().to_string();
    for (path, text) in language.files() {
        let text = text.replace("{NAME}", name).replace("{CHECKOUT}", &checkout);
        write(&folder.join(path), text.as_bytes())?;
    }
    // Outside the checkout nothing else pins the compiler.
    let pin = std::fs::read_to_string(root.join("rust-toolchain.toml"));
    write(&folder.join("rust-toolchain.toml"), pin.context("rust-toolchain.toml")?.as_bytes())
}

/// A name that is good for a package, a VM and a file.
fn check_name(name: &str) -> Result<(), Failure> {
    let good = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    // Packages of ours, and names that Rust or the console know otherwise.
    let taken = ["cloister", "core", "alloc", "std", "test", "guest-sdk", "protocol", "guest-build"];
    if good && begins && name.len() <= 31 && !taken.contains(&name) {
        return Ok(());
    }
    Err(Failure::usage(format_args!(
        "`{name}` cannot be the name of a guest\n  try: a small letter, then up to 30 of a-z, 0-9, - and _"
    )))
}

#[cfg(test)]
mod tests {
    use super::{Language, check_name};

    #[test]
    fn names_that_are_no_packages_are_refused() {
        assert!(check_name("first-guest_2").is_ok());
        for bad in ["", "2x", "A", "a b", "core", "a/b", &"x".repeat(32)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn templates_have_no_other_placeholders() {
        for language in [Language::Rust, Language::C] {
            for (path, text) in language.files() {
                let text = text.replace("{NAME}", "n").replace("{CHECKOUT}", "/c");
                assert!(!text.contains("{NAME") && !text.contains("{CHECK"), "{path}");
            }
        }
    }
}

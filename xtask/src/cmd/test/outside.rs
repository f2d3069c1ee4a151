//! What users do outside this repository: generated guests and the tutorial, built and booted.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Bench, Case, Verdict};
use crate::cmd::new::{Language, generate};
use crate::error::{Context, Failure};
use crate::{cmd, tree};

/// The tests.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("guest/new-rust", |bench| generated(bench, Language::Rust)),
        Case::new("guest/new-c", |bench| generated(bench, Language::C)),
    ];
    let tutorial = tree::root().join("docs/tutorial.md");
    if tutorial.is_file() {
        cases.push(Case::new("guest/tutorial", move |bench| followed(bench, &tutorial)));
    }
    cases
}

/// A folder outside the repository, removed when this value is dropped.
struct Outside(PathBuf);

impl Outside {
    /// A new, empty folder.
    fn new(name: &str) -> Result<Outside, Failure> {
        let path = std::env::temp_dir().join(format!("cloister-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).context(path.display())?;
        Ok(Outside(path))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // It lies in the folder for temporary files; nothing depends on its end.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Generates a guest and follows the command that its README names.
fn generated(bench: &mut Bench, language: Language) -> Verdict {
    let result = bench.emulator().and_then(|_| {
        if language == Language::C {
            crate::host::fetch::ensure_programs(&[("gcc", "gcc"), ("make", "make")])?;
        }
        let outside = Outside::new(language.name())?;
        let folder = outside.0.join("first");
        generate("first", &folder, language)?;
        shell(&folder, "cargo xtask run system.toml --timeout 120 --expect '[first] ended with code 0'")
    });
    result.into()
}

/// Follows a tutorial: `sh` blocks are run, blocks that name a file (`rust file=src/main.rs`) are
/// written to it.
fn followed(bench: &mut Bench, page: &Path) -> Verdict {
    let result = bench.emulator().and_then(|_| {
        let text = std::fs::read_to_string(page).context(page.display())?;
        let outside = Outside::new("tutorial")?;
        let mut folder = outside.0.clone();
        for block in blocks(&text) {
            follow(&block, &mut folder)?;
        }
        Ok(())
    });
    result.into()
}

/// Does what one block says.
fn follow(block: &Block, folder: &mut PathBuf) -> Result<(), Failure> {
    if let Some(file) = &block.file {
        return cmd::write(&folder.join(file), block.text.as_bytes());
    }
    if block.language != "sh" {
        return Ok(());
    }
    for line in block.text.lines() {
        let line = line.trim();
        if let Some(path) = line.strip_prefix("cd ") {
            // The page begins in the checkout and goes to the new guest.
            *folder = folder.join(path.trim_start_matches("../"));
        } else if let Some(arguments) = line.strip_prefix("cargo xtask new ") {
            let name = arguments.split_whitespace().next().unwrap_or("first");
            generate(name, &folder.join(name), Language::Rust)?;
        } else if !line.is_empty() && !line.starts_with('#') {
            shell(folder, line)?;
        }
    }
    Ok(())
}

/// A fenced block of a page.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    language: String,
    file: Option<String>,
    text: String,
}

/// The fenced blocks of a page.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(head), None) => {
                let mut words = head.split_whitespace();
                open = Some(Block {
                    language: words.next().unwrap_or("").to_owned(),
                    file: words.find_map(|word| word.strip_prefix("file=").map(str::to_owned)),
                    text: String::new(),
                });
            }
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    blocks
}

/// Runs a command line in a folder.
fn shell(folder: &Path, line: &str) -> Result<(), Failure> {
    let mut command = Command::new("sh");
    // What the outer cargo says about its own package is not meant for the inner one.
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_PKG") || name.starts_with("CARGO_MANIFEST") {
            command.env_remove(name);
        }
    }
    let output =
        command.args(["-c", line]).current_dir(folder).stdin(Stdio::null()).output().context("sh does not start")?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(Failure::usage(format_args!("`{line}` ended with {}:\n{}", output.status, String::from_utf8_lossy(&text))))
}

#[cfg(test)]
mod tests {
    use super::blocks;

    #[test]
    fn blocks_have_a_language_and_may_name_a_file() {
        let found = blocks("text\n```sh\ncd x\n```\nmore\n```rust file=src/main.rs\nfn main() {}\n```\n");
        assert_eq!(found[0].language, "sh");
        assert_eq!(found[0].text, "cd x\n");
        assert_eq!(found[1].file.as_deref(), Some("src/main.rs"));
    }
}

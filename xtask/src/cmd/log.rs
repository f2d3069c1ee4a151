//! `log decode`: explains a serial line that was saved.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::console::{Demultiplexer, Item};
use crate::decode::Programs;
use crate::error::{Context, Exit, Failure};
use crate::session::{JsonView, Shown, TerminalView, View, explain};
use crate::term;

/// Arguments of `log`.
#[derive(Debug, Args)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    action: Action,
}

/// What can be done with a serial line.
#[derive(Debug, Subcommand)]
enum Action {
    /// Decode log messages, crash reports and ends.
    Decode {
        /// What the serial line said; `-` for standard input.
        file: PathBuf,
        /// The ELF file of a VM, in the order of the system file, or of the hypervisor: `hv=PATH`.
        #[arg(long, value_name = "NAME=PATH")]
        elf: Vec<String>,
        /// Prints a JSON object a line.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let Action::Decode { file, elf, json } = &options.action;
    let programs = programs(elf)?;
    let bytes = if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes).context("standard input")?;
        bytes
    } else {
        std::fs::read(file).context(file.display())?
    };
    let mut view: Box<dyn View> =
        if *json { Box::new(JsonView) } else { Box::new(TerminalView::new(term::colours(), programs.names())) };
    for shown in decode(&bytes, &programs) {
        view.show(&shown);
    }
    Ok(Exit::Success)
}

/// The programs of `NAME=PATH` arguments.
fn programs(arguments: &[String]) -> Result<Programs, Failure> {
    let mut hypervisor = PathBuf::new();
    let mut vms = Vec::new();
    for argument in arguments {
        let (name, path) =
            argument.split_once('=').ok_or_else(|| Failure::usage(format_args!("`{argument}` is not NAME=PATH")))?;
        if name == "hv" {
            hypervisor = PathBuf::from(path);
        } else {
            vms.push((name.to_owned(), vec![PathBuf::from(path)]));
        }
    }
    Ok(Programs::new(hypervisor, &vms))
}

/// Everything that the bytes say, log messages between two lines in the order of their times.
pub fn decode(bytes: &[u8], programs: &Programs) -> Vec<Shown> {
    let mut items = Vec::new();
    let mut demultiplexer = Demultiplexer::new();
    demultiplexer.feed(bytes, &mut items);
    items.extend(demultiplexer.finish());
    let mut all: Vec<Shown> = items
        .into_iter()
        .filter_map(|item| match item {
            Item::Line(text) => Some(Shown::line(text, programs)),
            Item::Damaged(what) => Some(Shown::Note(format!("damaged record: {what}"))),
            Item::Record(record) => explain(&record, programs, None),
        })
        .collect();
    let time = |shown: &Shown| match shown {
        Shown::Log { time_ns, .. } => Some(*time_ns),
        _ => None,
    };
    for group in all.chunk_by_mut(|a, b| time(a).is_some() && time(b).is_some()) {
        group.sort_by_key(time);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{decode, programs};

    #[test]
    fn a_saved_line_is_told_in_order() {
        let programs = programs(&["hv=/nonexistent".into(), "a=/nonexistent".into()]).unwrap();
        let shown = decode(b"cloister: up\r\n[a] one\n\x1b_Cx\x1b\\[a] two", &programs);
        let lines: Vec<String> = shown.iter().flat_map(|shown| shown.lines()).collect();
        assert_eq!(lines[..2], ["cloister: up", "[a] one"]);
        assert!(lines[2].contains("damaged record"), "{lines:?}");
        assert_eq!(lines[3], "[a] two");
    }
}

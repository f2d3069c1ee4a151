//! What a run shows: lines of consoles, log messages, beginnings and ends.

use std::time::Duration;

use protocol::record::{Crash, Record};

use crate::cmd::audit_log;

use crate::decode::{Message, Programs};
use crate::report;

/// One thing to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// A console line of a VM.
    Console {
        /// The VM's name.
        vm: String,
        /// The line without the name.
        text: String,
    },
    /// A line of the hypervisor, or of what ran before it.
    Machine(String),
    /// A log message.
    Log {
        /// The VM's name, or `cloister`.
        source: String,
        /// Nanoseconds since the hypervisor started.
        time_ns: u64,
        /// What it says.
        message: Message,
    },
    /// Start-up is over.
    Booted {
        /// CPUs in use.
        cpus: u32,
        /// Nanoseconds since the hypervisor started.
        time_ns: u64,
        /// Since QEMU was started, if it was by us.
        wall: Option<Duration>,
    },
    /// A VM died.
    Crashed {
        /// Its name.
        vm: String,
        /// The report.
        lines: Vec<String>,
        /// The record.
        crash: Box<Crash<'static>>,
    },
    /// A VM ended by its own call.
    Ended {
        /// Its name.
        vm: String,
        /// Its exit code.
        code: u64,
        /// CPU time that it used.
        cpu_time_ns: u64,
    },
    /// A remark of xtask.
    Note(String),
    /// The policy refused something.
    Refused(String),
}

impl Shown {
    /// A line of the serial line, sorted by who wrote it.
    pub fn line(text: String, programs: &Programs) -> Shown {
        let named = text
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
            .filter(|(name, _)| programs.names().iter().any(|known| known == name));
        match named {
            Some((name, rest)) => {
                Shown::Console { vm: name.to_owned(), text: rest.strip_prefix(' ').unwrap_or(rest).to_owned() }
            }
            None => Shown::Machine(with_places(text, programs)),
        }
    }

    /// Who speaks: a VM's name, or nothing for hypervisor and tools.
    pub fn speaker(&self) -> Option<&str> {
        match self {
            Shown::Console { vm, .. } | Shown::Crashed { vm, .. } | Shown::Ended { vm, .. } => Some(vm),
            Shown::Log { source, .. } => Some(source),
            Shown::Machine(_) | Shown::Booted { .. } | Shown::Note(_) | Shown::Refused(_) => None,
        }
    }

    /// The plain text.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Shown::Console { vm, text } => vec![format!("[{vm}] {text}")],
            Shown::Machine(text) | Shown::Refused(text) => vec![text.clone()],
            Shown::Log { source, time_ns, message } => vec![log_line(source, *time_ns, message)],
            Shown::Booted { cpus, time_ns, wall } => vec![booted_line(*cpus, *time_ns, *wall)],
            Shown::Crashed { vm, lines, .. } => lines.iter().map(|line| format!("[{vm}] {line}")).collect(),
            Shown::Ended { vm, code, cpu_time_ns } => {
                vec![format!("[{vm}] ended with code {code} after {} of CPU time", milliseconds(*cpu_time_ns))]
            }
            Shown::Note(text) => vec![format!("xtask: {text}")],
        }
    }
}

/// A record as something to show. `wall` is the time since QEMU was started.
///
/// Nothing for what is no news to who watches: audit records of what was allowed.
pub fn explain(record: &Record<'static>, programs: &Programs, wall: Option<Duration>) -> Option<Shown> {
    Some(match record {
        Record::Log(log) => Shown::Log {
            source: programs.name(log.source),
            time_ns: log.time_ns,
            message: programs.message(log.source, &log.frame).unwrap_or_else(|why| Message {
                level: "?".to_owned(),
                text: format!("a log frame of {} bytes: {why}", log.frame.len()),
                place: None,
            }),
        },
        Record::Started(started) => Shown::Booted { cpus: started.cpus, time_ns: started.time_ns, wall },
        Record::Crash(crash) => Shown::Crashed {
            vm: programs.name(Some(crash.vm)),
            lines: report::lines(crash, programs),
            crash: Box::new(crash.clone()),
        },
        Record::Ended(ended) => {
            Shown::Ended { vm: programs.name(Some(ended.vm)), code: ended.code, cpu_time_ns: ended.cpu_time_ns }
        }
        Record::Audit(_) => {
            let record = audit_log::audit_record(record)?;
            Shown::Refused(audit_log::refusal(&record, programs)?)
        }
    })
}

/// A log message: `[name] LEVEL 12.345 ms text (file:line)`.
fn log_line(source: &str, time_ns: u64, message: &Message) -> String {
    let level = message.level.to_uppercase();
    let mut line = format!("[{source}] {level:<5} {} {}", milliseconds(time_ns), message.text);
    if let Some(place) = &message.place {
        line += &format!(" ({place})");
    }
    line
}

/// The line that tells how long booting took.
fn booted_line(cpus: u32, time_ns: u64, wall: Option<Duration>) -> String {
    let plural = if cpus == 1 { "" } else { "s" };
    let mut line = format!("booted: {cpus} CPU{plural}, first guest instruction after {}", milliseconds(time_ns));
    if let Some(wall) = wall {
        line += &format!(" ({} ms after QEMU was started)", wall.as_millis());
    }
    line
}

/// Nanoseconds as milliseconds with microseconds behind the point.
fn milliseconds(ns: u64) -> String {
    format!("{}.{:03} ms", ns / 1_000_000, ns / 1_000 % 1_000)
}

/// A line of the hypervisor with a symbol behind every address of its code.
fn with_places(text: String, programs: &Programs) -> String {
    let mut result = String::new();
    for word in text.split_inclusive(' ') {
        result.push_str(word);
        let bare = word.trim_matches(|c: char| !c.is_ascii_hexdigit() && c != 'x');
        let place = bare
            .strip_prefix("0xffff82d")
            .and_then(|_| u64::from_str_radix(bare.trim_start_matches("0x"), 16).ok())
            .and_then(|address| programs.hypervisor_place(address));
        if let Some(place) = place {
            let gap = if word.ends_with(' ') { "" } else { " " };
            result += &format!("{gap}<{place}>");
            if gap.is_empty() {
                result.push(' ');
            }
        }
    }
    result
}

//! Where a run is shown: a terminal, JSON lines, or nowhere.

use std::io::Write;

use serde_json::{Value, json};

use super::event::Shown;
use crate::console::harmless;

/// Takes what a run shows.
pub trait View {
    /// One thing that happened.
    fn show(&mut self, shown: &Shown);
    /// A line that has not ended and for whose end nobody waits any longer, as it stands now.
    fn partial(&mut self, _text: &str) {}
}

/// Shows nothing.
#[derive(Debug)]
pub struct SilentView;

impl View for SilentView {
    fn show(&mut self, _shown: &Shown) {}
}

/// Colours of the VMs, in turn (ANSI, ECMA-48 8.3.117).
const COLOURS: [&str; 6] = ["36", "33", "35", "32", "34", "96"];

/// Writes lines for people.
#[derive(Debug)]
pub struct TerminalView {
    colours: bool,
    names: Vec<String>,
    /// The unfinished line as it stands on the screen.
    written: String,
}

impl TerminalView {
    /// A view with or without colours.
    pub fn new(colours: bool, names: &[String]) -> TerminalView {
        TerminalView { colours, names: names.to_vec(), written: String::new() }
    }

    /// What makes room in the place of the unfinished line: a terminal forgets it.
    fn take_back(&mut self) -> &'static str {
        match std::mem::take(&mut self.written) {
            written if written.is_empty() => "",
            _ if self.colours => "\r\x1b[K",
            _ => "\n",
        }
    }

    /// The colour of a VM, if colours are wanted.
    fn colour(&self, name: &str) -> Option<&'static str> {
        let index = self.names.iter().position(|other| other == name)?;
        COLOURS.get(index % COLOURS.len()).copied().filter(|_| self.colours)
    }

    /// A line with the colour of its speaker on the prefix.
    fn painted(&self, line: &str, shown: &Shown) -> String {
        let clean = harmless(line);
        if !self.colours {
            return clean;
        }
        if matches!(shown, Shown::Crashed { .. }) {
            return format!("\x1b[31m{clean}\x1b[0m");
        }
        let colour = shown.speaker().and_then(|name| self.colour(name));
        match (colour, clean.split_once(']')) {
            (Some(colour), Some((name, rest))) => {
                format!("\x1b[{colour}m{name}]\x1b[0m{rest}\x1b[0m")
            }
            _ => format!("\x1b[2m{clean}\x1b[0m"),
        }
    }
}

/// Writes to standard output. A reader that went away ends the program at the next line anyway.
fn write(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

impl View for TerminalView {
    fn show(&mut self, shown: &Shown) {
        let lines = shown.lines();
        if let [line] = lines.as_slice()
            && !self.written.is_empty()
            && let Some(rest) = line.strip_prefix(self.written.as_str())
        {
            write(&format!("{}\n", harmless(rest)));
            self.written.clear();
            return;
        }
        let mut text = self.take_back().to_owned();
        for line in &lines {
            text += &self.painted(line, shown);
            text.push('\n');
        }
        write(&text);
    }

    fn partial(&mut self, text: &str) {
        if let Some(rest) = text.strip_prefix(self.written.as_str()) {
            write(&harmless(rest));
        } else {
            write(&format!("{}{}", self.take_back(), harmless(text)));
        }
        text.clone_into(&mut self.written);
    }
}

/// Writes a JSON object a line.
#[derive(Debug)]
pub struct JsonView;

impl View for JsonView {
    fn show(&mut self, shown: &Shown) {
        write(&format!("{}\n", to_json(shown)));
    }
}

/// The JSON of one thing that happened. Documented in `docs/xtask.md`.
pub fn to_json(shown: &Shown) -> Value {
    match shown {
        Shown::Console { vm, text } => json!({"kind": "console", "vm": vm, "text": text}),
        Shown::Machine(text) => json!({"kind": "machine", "text": text}),
        Shown::Log { source, time_ns, message } => json!({
            "kind": "log", "source": source, "time_ns": time_ns, "level": message.level,
            "text": message.text, "place": message.place,
        }),
        Shown::Booted { cpus, time_ns, wall } => json!({
            "kind": "booted", "cpus": cpus, "time_ns": time_ns,
            "wall_ms": wall.map(|wall| u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
        }),
        Shown::Crashed { vm, lines, crash } => json!({
            "kind": "crash", "vm": vm, "code": crash.code, "reason": crash.reason, "report": lines,
        }),
        Shown::Ended { vm, code, cpu_time_ns } => {
            json!({"kind": "ended", "vm": vm, "code": code, "cpu_time_ns": cpu_time_ns})
        }
        Shown::Note(text) => json!({"kind": "note", "text": text}),
        Shown::Refused(text) => json!({"kind": "refused", "text": text}),
    }
}

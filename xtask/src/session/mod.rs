//! One run of a machine: its serial line is taken apart and shown, what is typed or scripted goes
//! to it, and its end is judged.

mod event;
mod goal;
mod input;
#[cfg(test)]
mod tests;
mod view;

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use protocol::record::Record;
use protocol::shared::AuditRecord;

pub use event::{Shown, explain};
pub use goal::{Goal, Press, Progress, Reaction, Step, parse_script};
pub use view::{JsonView, SilentView, TerminalView, View};

use crate::cmd::audit_log;
use crate::console::{Demultiplexer, Item};
use crate::decode::Programs;
use crate::error::{Exit, Failure};
use crate::qemu::{self, Machine, Running};

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The verdict.
    pub exit: Exit,
    /// Expected texts and script steps that were not reached.
    pub unmet: Vec<String>,
    /// Every line that was shown, as plain text.
    pub transcript: Vec<String>,
    /// The console lines among them: the VM's name, and the line without it.
    pub console: Vec<(String, String)>,
    /// The audit log.
    pub audit: Vec<AuditRecord>,
    /// What QEMU itself said.
    pub complaints: Vec<String>,
    /// The machine ended by itself without a word: it reset.
    pub reset: bool,
}

/// What other threads tell the session.
enum Signal {
    /// Bytes of the serial line.
    Serial(Vec<u8>),
    /// The serial line has ended.
    Closed,
    /// A line of QEMU's own.
    Complaint(String),
    /// Bytes that a person typed.
    Typed(Vec<u8>),
}

/// How long log records wait for older ones of other sources.
const ORDER_WINDOW: Duration = Duration::from_millis(20);
/// How long an unfinished line waits for its end before it is shown.
const PARTIAL_WINDOW: Duration = Duration::from_millis(40);
/// How long a script waits for a prompt before it presses the return key.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running machine with everything around it.
struct Session<'a> {
    running: Running,
    programs: &'a Programs,
    view: &'a mut dyn View,
    progress: Progress<'a>,
    started: Instant,
    demultiplexer: Demultiplexer,
    /// Log messages that wait to be ordered: arrival, time, message.
    waiting: Vec<(Instant, u64, Shown)>,
    /// When bytes last came.
    quiet_since: Instant,
    /// How many steps of the script were left, and since when that or the last return key.
    step: (usize, Instant),
    outcome: Outcome,
    stop: bool,
    /// Where the serial line is saved as it is.
    saved: Option<std::fs::File>,
}

/// Boots a machine and follows it to its end, or until the goal is reached.
pub fn run(machine: &Machine, programs: &Programs, goal: &Goal, view: &mut dyn View) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let mut running = machine.start()?;
    // Few, so that a session which does not read makes the machine's line stop.
    let (sender, signals) = sync_channel(4);
    listen(&mut running, &sender);
    let _raw = goal.interactive.then(crate::term::RawInput::enter).flatten();
    if goal.interactive {
        input::listen(sender);
    } else {
        drop(sender);
    }
    let mut session = Session {
        running,
        programs,
        view,
        progress: Progress::new(goal, programs.names()),
        started,
        demultiplexer: Demultiplexer::new(),
        waiting: Vec::new(),
        quiet_since: started,
        step: (0, started),
        outcome: Outcome {
            exit: Exit::Unmet,
            unmet: Vec::new(),
            transcript: Vec::new(),
            console: Vec::new(),
            audit: Vec::new(),
            complaints: Vec::new(),
            reset: false,
        },
        stop: false,
        saved: goal.save.as_ref().and_then(|path| std::fs::File::create(path).ok()),
    };
    let end = session.follow(&signals, goal);
    // What the machine said about its end may come a moment later than the end.
    while let (End::Machine, Ok(signal)) = (end, signals.recv_timeout(ORDER_WINDOW)) {
        if let Signal::Complaint(line) = signal {
            session.outcome.complaints.push(line);
        }
    }
    session.judge(end, goal);
    Ok(session.outcome)
}

/// Why the session stopped following the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The machine ended.
    Machine,
    /// Everything expected was seen.
    Reached,
    /// The time was over.
    TimeOut,
    /// The person asked for it.
    Asked,
}

/// Reads the machine's pipes in threads of their own.
fn listen(running: &mut Running, sender: &SyncSender<Signal>) {
    if let Some(mut stdout) = running.child.stdout.take() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = stdout.read(&mut buffer) {
                let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                if count == 0 || sender.send(Signal::Serial(bytes)).is_err() {
                    break;
                }
            }
            // Nobody listens any more when the session is over; then this tells nobody.
            let _ = sender.send(Signal::Closed);
        });
    }
    if let Some(stderr) = running.child.stderr.take() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            use std::io::BufRead;
            for line in std::io::BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(Signal::Complaint(line)).is_err() {
                    break;
                }
            }
        });
    }
}

impl Session<'_> {
    /// Takes signals until something ends the session.
    fn follow(&mut self, signals: &Receiver<Signal>, goal: &Goal) -> End {
        let deadline = goal.timeout.map(|timeout| self.started + timeout);
        loop {
            if self.progress.reached() && goal.expects_something() && !goal.to_end && self.is_between_lines() {
                return End::Reached;
            }
            if self.stop {
                return End::Asked;
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return End::TimeOut;
            }
            let wait = deadline.map_or(PARTIAL_WINDOW, |deadline| deadline - now);
            match signals.recv_timeout(wait.min(PARTIAL_WINDOW)) {
                Ok(Signal::Serial(bytes)) => self.take(&bytes),
                Ok(Signal::Closed) | Err(RecvTimeoutError::Disconnected) => return End::Machine,
                Ok(Signal::Complaint(line)) => self.outcome.complaints.push(line),
                Ok(Signal::Typed(bytes)) => self.typed(&bytes),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.settle(false);
            self.send_scripted();
        }
    }

    /// Whether the last line is whole, or nobody ends it.
    fn is_between_lines(&self) -> bool {
        self.demultiplexer.partial().is_empty() || self.quiet_since.elapsed() >= PARTIAL_WINDOW
    }

    /// Takes bytes of the serial line.
    fn take(&mut self, bytes: &[u8]) {
        self.quiet_since = Instant::now();
        if let Some(file) = &mut self.saved {
            // A full disk must not end the run.
            let _ = file.write_all(bytes);
        }
        let mut items = Vec::new();
        self.demultiplexer.feed(bytes, &mut items);
        for item in items {
            self.item(item);
        }
        self.progress.partial(&self.demultiplexer.partial());
    }

    /// Shows one item.
    fn item(&mut self, item: Item) {
        let shown = match item {
            Item::Line(text) => Shown::line(text, self.programs),
            Item::Damaged(what) => Shown::Note(format!("damaged record: {what}")),
            Item::Record(record) => {
                let wall = self.started.elapsed();
                self.outcome.audit.extend(audit_log::audit_record(&record));
                let Some(shown) = explain(&record, self.programs, Some(wall)) else {
                    return;
                };
                if let Record::Log(log) = *record {
                    self.waiting.push((Instant::now(), log.time_ns, shown));
                    return;
                }
                shown
            }
        };
        self.settle(true);
        self.show(shown);
    }

    /// Shows log messages that waited long enough (or all), oldest first, and an unfinished line.
    fn settle(&mut self, all: bool) {
        let now = Instant::now();
        let due = self.waiting.first().is_some_and(|(arrival, ..)| all || now - *arrival >= ORDER_WINDOW);
        if due {
            let mut waiting = std::mem::take(&mut self.waiting);
            waiting.sort_by_key(|(_, time, _)| *time);
            for (.., shown) in waiting {
                self.show(shown);
            }
        }
        if !all && now - self.quiet_since >= PARTIAL_WINDOW {
            let partial = self.demultiplexer.partial();
            if !partial.is_empty() {
                self.view.partial(&partial);
            }
        }
    }

    /// Shows one thing and remembers it.
    fn show(&mut self, shown: Shown) {
        for line in shown.lines() {
            self.progress.line(&line);
            match self.progress.reaction(&line) {
                Some(Reaction::Send(bytes)) => self.press(&Press::Bytes(bytes)),
                Some(Reaction::Hold(span)) => std::thread::sleep(span),
                None => {}
            }
            self.outcome.transcript.push(line);
        }
        self.view.show(&shown);
        if let Shown::Console { vm, text } = shown {
            self.outcome.console.push((vm, text));
        }
    }

    /// Passes on what was typed. Ctrl-C ends the run, and so does Ctrl-A X, as in QEMU.
    fn typed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match self.progress.key(*byte) {
                input::Key::Send(byte) => self.send(&[byte]),
                input::Key::Attention => self.press(&Press::Break),
                input::Key::Quit => self.stop = true,
                input::Key::Nothing => {}
            }
        }
    }

    /// Sends what the script has to send now.
    fn send_scripted(&mut self) {
        let left = self.progress.steps_left();
        if self.step.0 != left || self.step.1.elapsed() >= PATIENCE {
            let is_late = self.step.0 == left;
            self.step = (left, Instant::now());
            if is_late && let Some(press) = self.progress.nudge() {
                self.press(&press);
            }
        }
        if let Some(press) = self.progress.next_send() {
            self.press(&press);
        }
    }

    /// Types, or holds the line down, in the words of QEMU's multiplexed line: Ctrl-A B is a BREAK, and
    /// Ctrl-A itself stands twice.
    fn press(&mut self, press: &Press) {
        match press {
            Press::Bytes(bytes) => self.send(bytes),
            Press::Break => self.write(b"\x01b"),
        }
    }

    /// Types bytes.
    fn send(&mut self, bytes: &[u8]) {
        let escaped: Vec<u8> =
            bytes.iter().flat_map(|byte| if *byte == 1 { vec![1, 1] } else { vec![*byte] }).collect();
        self.write(&escaped);
    }

    /// Writes to QEMU.
    fn write(&mut self, bytes: &[u8]) {
        if let Some(stdin) = self.running.child.stdin.as_mut() {
            // A machine that has ended takes no input; its end is noticed by itself.
            let _ = stdin.write_all(bytes).and_then(|()| stdin.flush());
        }
    }

    /// Decides what the run came to.
    fn judge(&mut self, end: End, goal: &Goal) {
        if let Some(rest) = self.demultiplexer.finish() {
            self.item(rest);
        }
        self.settle(true);
        let status = match end {
            End::Machine => self.running.child.wait().ok().and_then(|status| status.code()),
            End::Reached | End::TimeOut | End::Asked => {
                self.running.kill();
                None
            }
        };
        self.outcome.reset = status == Some(0);
        self.outcome.unmet = self.progress.unmet();
        let unmet = !self.progress.reached() && goal.expects_something();
        self.outcome.exit = match end {
            End::Reached | End::Asked => Exit::Success,
            End::TimeOut => Exit::TimeOut,
            End::Machine => match qemu::verdict(status) {
                Some(Exit::Success) if unmet => Exit::Unmet,
                Some(verdict) => verdict,
                None => Exit::Usage,
            },
        };
    }
}

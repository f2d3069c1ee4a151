//! What a run waits for: expected texts, and a script of sends and expectations.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use protocol::record::INPUT_LINE;

use super::input::{Key, Keys};

/// What to wait for and for how long.
#[derive(Debug, Clone, Default)]
pub struct Goal {
    /// Texts, each to be seen in some line, in any order.
    pub expect: Vec<String>,
    /// Steps, to be done in order.
    pub script: Vec<Step>,
    /// Goes on to the machine's own end even when everything was seen. (With nothing to be seen it
    /// does so anyway.)
    pub to_end: bool,
    /// The longest time, if there is one.
    pub timeout: Option<Duration>,
    /// A person types.
    pub interactive: bool,
    /// What is done, once each, when a line with the text is shown.
    pub reactions: Vec<(String, Reaction)>,
    /// Where the serial line is saved as it is, for `log decode`.
    pub save: Option<std::path::PathBuf>,
}

impl Goal {
    /// Whether anything has to be seen.
    pub fn expects_something(&self) -> bool {
        !self.expect.is_empty() || !self.script.is_empty()
    }
}

/// What a line makes the host side do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reaction {
    /// Send bytes to the serial line.
    Send(Vec<u8>),
    /// Read nothing from it for so long, so that it stops taking any.
    Hold(Duration),
}

/// One line of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The VM, or `*` for any line.
    pub vm: String,
    /// What to do.
    pub action: Action,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Waits for a line of the VM that holds the text.
    Expect(String),
    /// Waits for a line of the VM that ends with the text and does not end itself: the VM waits for input. Only of
    /// the VM that has the input such lines are shown, so it gets the input.
    Prompt(String),
    /// Sends the text and a newline to the VM.
    Send(String),
    /// Presses the secure attention key.
    Attention,
}

/// What the script does to the line now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Press {
    /// It types these bytes.
    Bytes(Vec<u8>),
    /// It holds the line down.
    Break,
}

/// Reads a script: lines `VM expect TEXT`, `VM prompt TEXT`, `VM send TEXT` and `* attention`, and comments.
pub fn parse_script(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong =
            || format!("line {}: `{line}` is none of `VM expect TEXT`, `VM prompt TEXT`, `VM send TEXT`", index + 1);
        let (vm, rest) = line.split_once(char::is_whitespace).ok_or_else(wrong)?;
        let rest = rest.trim_start();
        let (verb, text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let text = text.trim_start().to_owned();
        let action = match verb {
            "expect" if !text.is_empty() => Action::Expect(text),
            "prompt" if vm != "*" && !text.is_empty() => Action::Prompt(text),
            "send" => Action::Send(text),
            "attention" if vm == "*" && text.is_empty() => Action::Attention,
            _ => return Err(wrong()),
        };
        steps.push(Step { vm: vm.to_owned(), action });
    }
    Ok(steps)
}

/// The key that gives the console's input to the next VM.
const SWITCH: u8 = 0x1d;

/// How far a run has come.
#[derive(Debug)]
pub struct Progress<'a> {
    unseen: Vec<&'a str>,
    steps: VecDeque<&'a Step>,
    /// The VM that has the input, as far as the hypervisor said.
    foreground: Option<String>,
    /// A switch was asked for and not confirmed yet.
    switching: bool,
    /// Switches that did not lead to the wanted VM.
    switches: usize,
    vms: Vec<String>,
    /// The VMs that have said anything.
    heard: HashSet<String>,
    reactions: Vec<&'a (String, Reaction)>,
    /// The VM to which a text was sent and which has ended no line since: its prompt is the answered one.
    answered: Option<&'a str>,
    /// The keys that a person types.
    keys: Keys,
}

impl<'a> Progress<'a> {
    /// Nothing seen yet.
    pub fn new(goal: &'a Goal, vms: &[String]) -> Progress<'a> {
        Progress {
            unseen: goal.expect.iter().map(String::as_str).collect(),
            steps: goal.script.iter().collect(),
            foreground: None,
            switching: false,
            switches: 0,
            vms: vms.to_vec(),
            heard: HashSet::new(),
            reactions: goal.reactions.iter().collect(),
            answered: None,
            keys: Keys::default(),
        }
    }

    /// Whether everything was seen and done, if there was anything.
    pub fn reached(&self) -> bool {
        self.unseen.is_empty() && self.steps.is_empty()
    }

    /// What was not seen or done.
    pub fn unmet(&self) -> Vec<String> {
        let texts = self.unseen.iter().map(|text| format!("expect `{text}`"));
        let steps = self.steps.iter().map(|step| match &step.action {
            Action::Expect(text) => format!("script: {} expect {text}", step.vm),
            Action::Prompt(text) => format!("script: {} prompt {text}", step.vm),
            Action::Send(text) => format!("script: {} send {text}", step.vm),
            Action::Attention => "* attention".to_owned(),
        });
        texts.chain(steps).collect()
    }

    /// Takes a whole line, with its prefix.
    pub fn line(&mut self, line: &str) {
        if let Some(name) = self.switched_to(line) {
            self.foreground = Some(name);
            self.switching = false;
        }
        if self.answered.is_some_and(|vm| content_of(vm, line).is_some()) {
            self.answered = None;
        }
        if let Some(vm) = self.vms.iter().find(|vm| content_of(vm, line).is_some()) {
            self.heard.insert(vm.clone());
            if self.steps.front().is_some_and(|step| step.vm == *vm) {
                // It is there, perhaps again: worth another round.
                self.switches = 0;
            }
        }
        self.unseen.retain(|text| !line.contains(text));
        self.step(line);
    }

    /// The VM that a line of the hypervisor gives the input to.
    fn switched_to(&self, line: &str) -> Option<String> {
        let (name, _) =
            line.strip_prefix("cloister: ")?.strip_prefix(INPUT_LINE)?.strip_prefix('[')?.split_once(']')?;
        self.vms.iter().find(|known| *known == name).cloned()
    }

    /// What a line makes the host side do, if it does for the first time.
    pub fn reaction(&mut self, line: &str) -> Option<Reaction> {
        let place = self.reactions.iter().position(|(text, _)| line.contains(text.as_str()))?;
        Some(self.reactions.remove(place).1.clone())
    }

    /// Takes a line of a VM that has not ended, such as a prompt. The hypervisor ends its own.
    pub fn partial(&mut self, line: &str) {
        if !line.starts_with('[') {
            return;
        }
        self.unseen.retain(|text| !line.contains(text));
        self.step(line);
        let Some(step) = self.steps.front() else {
            return;
        };
        if let Action::Prompt(text) = &step.action
            && self.answered != Some(&step.vm)
            && content_of(&step.vm, line).is_some_and(|content| content.trim_end().ends_with(text.as_str()))
        {
            self.steps.pop_front();
        }
    }

    /// Ends the current step if the line is what it waits for.
    fn step(&mut self, line: &str) {
        let Some(step) = self.steps.front() else {
            return;
        };
        let Action::Expect(text) = &step.action else {
            return;
        };
        let content = if step.vm == "*" { Some(line) } else { content_of(&step.vm, line) };
        if content.is_some_and(|content| content.contains(text.as_str())) {
            self.steps.pop_front();
        }
    }

    /// What the script does to the line now: a text, the key that gives its VM the input, or the secure
    /// attention key.
    pub fn next_send(&mut self) -> Option<Press> {
        let step = self.steps.front()?;
        match &step.action {
            Action::Attention => {
                self.steps.pop_front();
                Some(Press::Break)
            }
            Action::Send(text) if step.vm == "*" || self.has_input(&step.vm) => {
                let bytes = format!("{text}\n").into_bytes();
                self.answered = Some(&step.vm);
                self.steps.pop_front();
                self.switches = 0;
                Some(Press::Bytes(bytes))
            }
            // Keys that are typed before anyone listens are lost.
            Action::Prompt(_) if !self.heard.contains(&step.vm) || self.has_input(&step.vm) => None,
            Action::Send(_) | Action::Prompt(_) => self.switch(),
            Action::Expect(_) => None,
        }
    }

    fn has_input(&self, vm: &str) -> bool {
        self.foreground.as_deref() == Some(vm)
    }

    /// The key that gives the input to the next VM, once for each confirmation, and for one round.
    fn switch(&mut self) -> Option<Press> {
        if self.switching || self.switches > self.vms.len() {
            return None;
        }
        self.switching = true;
        self.switches += 1;
        Some(Press::Bytes(vec![SWITCH]))
    }

    /// What may bring back a prompt behind which a VM has printed something of its own.
    pub fn nudge(&self) -> Option<Press> {
        let step = self.steps.front()?;
        let waits = matches!(step.action, Action::Prompt(_)) && self.has_input(&step.vm);
        waits.then(|| Press::Bytes(b"\n".to_vec()))
    }

    /// Steps that are left.
    pub fn steps_left(&self) -> usize {
        self.steps.len()
    }

    /// What to do with a key.
    pub fn key(&mut self, byte: u8) -> Key {
        self.keys.take(byte)
    }
}

/// What stands behind the prefix of a VM, if the line is one of its lines.
fn content_of<'line>(vm: &str, line: &'line str) -> Option<&'line str> {
    line.strip_prefix('[')?.strip_prefix(vm)?.strip_prefix(']')
}

#[cfg(test)]
mod tests {
    use super::{Goal, Press, Progress, Reaction, parse_script};

    #[test]
    fn a_script_waits_switches_the_console_and_sends() {
        let goal = Goal {
            script: parse_script("# talk\n\nshell expect > \nshell send echo hi there\nshell expect hi\n").unwrap(),
            ..Goal::default()
        };
        let mut progress = Progress::new(&goal, &["hello".into(), "shell".into()]);
        progress.line("cloister: the console's input goes to [hello] from now on");
        assert_eq!(progress.next_send(), None);
        progress.line("[hello] > ");
        assert_eq!(progress.next_send(), None, "that was another VM's line");
        progress.partial("[shell] > ");
        assert_eq!(progress.next_send(), Some(Press::Bytes(vec![0x1d])));
        assert_eq!(progress.next_send(), None, "waits for the switch");
        progress.line("cloister: the console's input goes to [shell] from now on");
        assert_eq!(progress.next_send(), Some(Press::Bytes(b"echo hi there\n".to_vec())));
        assert!(!progress.reached());
        progress.line("[shell] hi there");
        assert!(progress.reached());
    }

    #[test]
    fn a_prompt_is_a_line_that_waits_and_not_the_one_that_was_answered() {
        let script = "sh prompt / #\nsh send echo '/ #'\nsh prompt / #\nsh send exit\n";
        let goal = Goal { script: parse_script(script).unwrap(), ..Goal::default() };
        let mut progress = Progress::new(&goal, &["sh".into(), "other".into()]);
        progress.line("cloister: the console's input goes to [sh] from now on");
        progress.partial("[sh] / # is not at the end");
        progress.partial("[other] / # ");
        progress.line("[sh] a whole line / #");
        assert_eq!(progress.next_send(), None);
        progress.partial("[sh] / # ");
        assert_eq!(progress.next_send(), Some(Press::Bytes(b"echo '/ #'\n".to_vec())));
        progress.partial("[sh] / # ");
        progress.partial("[sh] / # echo '/ #");
        assert_eq!(progress.next_send(), None, "that is the old prompt, and what was typed behind it");
        progress.line("[other] says something");
        progress.partial("[sh] / # ");
        assert_eq!(progress.next_send(), None, "still the old one");
        progress.line("[sh] / # echo '/ #'");
        progress.line("[sh] / #");
        assert_eq!(progress.unmet().len(), 2);
        progress.partial("[sh] / # ");
        assert_eq!(progress.next_send(), Some(Press::Bytes(b"exit\n".to_vec())));
        assert!(progress.reached());
    }

    #[test]
    fn a_prompt_is_shown_to_whoever_has_the_input() {
        let goal = Goal { script: parse_script("b prompt #\nb send x\n").unwrap(), ..Goal::default() };
        let mut progress = Progress::new(&goal, &["a".into(), "b".into()]);
        progress.line("cloister: the console's input goes to [a] from now on");
        assert_eq!(progress.next_send(), None, "nobody may be there yet");
        progress.line("[b] starts");
        assert_eq!(progress.next_send(), Some(Press::Bytes(vec![0x1d])));
        assert_eq!(progress.nudge(), None, "it would go to another VM");
        for _ in 0..4 {
            progress.line("cloister: the console's input goes to [a] from now on");
            progress.next_send();
        }
        assert_eq!(progress.next_send(), None, "it cannot have the input now");
        progress.line("[b] starts again");
        assert_eq!(progress.next_send(), Some(Press::Bytes(vec![0x1d])));
        progress.line("cloister: the console's input goes to [b] from now on");
        assert_eq!(progress.next_send(), None);
        assert_eq!(progress.nudge(), Some(Press::Bytes(b"\n".to_vec())));
        progress.partial("[b] #");
        assert_eq!((progress.nudge(), progress.steps_left()), (None, 1));
        assert_eq!(progress.next_send(), Some(Press::Bytes(b"x\n".to_vec())));
    }

    #[test]
    fn a_line_of_the_hypervisor_counts_when_it_is_whole() {
        let goal = Goal { script: parse_script("* expect input goes to [b]\nb send x").unwrap(), ..Goal::default() };
        let mut progress = Progress::new(&goal, &["a".into(), "b".into()]);
        progress.partial("cloister: the console's input goes to [b] fr");
        assert_eq!(progress.next_send(), None);
        progress.line("cloister: the console's input goes to [b] from now on");
        assert_eq!(progress.next_send(), Some(Press::Bytes(b"x\n".to_vec())), "no switch is needed");
    }

    #[test]
    fn a_line_makes_the_host_side_do_something_once() {
        let goal = Goal { reactions: vec![("go on?".into(), Reaction::Send(b"yes".to_vec()))], ..Goal::default() };
        let mut progress = Progress::new(&goal, &[]);
        assert_eq!(progress.reaction("[a] well"), None);
        assert_eq!(progress.reaction("[a] go on?"), Some(Reaction::Send(b"yes".to_vec())));
        assert_eq!(progress.reaction("[a] go on?"), None);
        assert!(progress.reached());
    }

    #[test]
    fn expected_texts_may_come_in_any_order_and_are_listed_until_seen() {
        let goal = Goal { expect: vec!["[a] done".into(), "booted".into()], ..Goal::default() };
        let mut progress = Progress::new(&goal, &[]);
        progress.line("booted: 2 CPUs");
        assert_eq!(progress.unmet(), ["expect `[a] done`"]);
        progress.line("[a] done");
        assert!(progress.reached());
    }

    #[test]
    fn a_wrong_script_line_is_named() {
        assert!(parse_script("\nshell says hi").unwrap_err().starts_with("line 2"));
        assert!(parse_script("shell attention").is_err(), "it is not for a VM");
        assert!(parse_script("shell").is_err());
        assert!(parse_script("shell expect").is_err());
        assert!(parse_script("* prompt #").is_err(), "a prompt is some VM's");
    }
}

//! What a person at the serial line sees, and what hostile guests cannot make them see.

use proptest::prelude::*;

use super::{Console, ERASE, SWITCH_KEY, Typed, base64, stream};
use protocol::VmId;
use protocol::record::{Ended, Log, PREFIX, Record, SUFFIX};

const A: VmId = VmId(0);
const B: VmId = VmId(1);

/// Consoles of the VMs `a` (in the foreground) and `b`.
fn console() -> Console {
    let mut console = Console::new(3);
    console.open(A, "a", "");
    console.open(B, "b", "");
    console
}

fn write(console: &mut Console, vm: VmId, text: &str) {
    assert_eq!(console.write(vm, text.as_bytes()), text.len());
}

fn drain_bytes(console: &mut Console) -> Vec<u8> {
    let bytes = std::iter::from_fn(|| console.next_byte()).collect();
    assert!(!console.has_output());
    bytes
}

/// What goes out, with `^` for taking the incomplete line back and line ends as one byte.
fn drain(console: &mut Console) -> String {
    let text = String::from_utf8(drain_bytes(console)).unwrap();
    text.replace(std::str::from_utf8(ERASE).unwrap(), "^").replace("\r\n", "\n")
}

/// What appears when `b` writes these bytes and ends the line.
fn line_of(bytes: &[u8]) -> Vec<u8> {
    let mut console = console();
    assert_eq!(console.write(B, bytes), bytes.len());
    assert_eq!(console.write(B, b"\n"), 1);
    let shown = drain_bytes(&mut console);
    let line = shown.strip_prefix(b"[b] ").unwrap();
    line.strip_suffix(b"\r\n").unwrap().to_vec()
}

/// An independent, slow decoder.
fn decode64(text: &[u8]) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("not base64"),
    };
    assert_eq!(text.len() % 4, 0);
    let text = text.iter().copied().filter(|byte| *byte != b'=');
    let bits: String = text.map(|byte| format!("{:06b}", value(byte))).collect();
    let bytes = bits.as_bytes().chunks_exact(8);
    bytes.map(|bits| u8::from_str_radix(std::str::from_utf8(bits).unwrap(), 2).unwrap()).collect()
}

/// The bytes of a record.
fn payload(bytes: &[u8]) -> Vec<u8> {
    let text = bytes.strip_prefix(PREFIX).unwrap();
    decode64(text.strip_suffix(SUFFIX).unwrap())
}

#[test]
fn a_background_line_appears_when_it_is_complete() {
    let mut console = console();
    write(&mut console, B, "half ");
    assert_eq!(drain(&mut console), "");
    write(&mut console, B, "and half\nnext");
    assert_eq!(drain(&mut console), "[b] half and half\n");
}

#[test]
fn a_foreground_line_appears_as_it_is_written() {
    let mut console = console();
    write(&mut console, A, "$ l");
    assert_eq!(drain(&mut console), "[a] $ l");
    write(&mut console, A, "s");
    assert_eq!(drain(&mut console), "s");
    write(&mut console, A, "\nfile\n$ ");
    assert_eq!(drain(&mut console), "\n[a] file\n[a] $ ");
}

#[test]
fn an_interrupted_foreground_line_is_drawn_anew() {
    let mut console = console();
    write(&mut console, A, "$ ec");
    assert_eq!(drain(&mut console), "[a] $ ec");
    write(&mut console, B, "news\n");
    assert_eq!(drain(&mut console), "^[b] news\n[a] $ ec");
    assert!(console.line(format_args!("own {}", 1)));
    write(&mut console, A, "ho\n");
    assert_eq!(drain(&mut console), "^cloister: own 1\n[a] $ echo\n");
}

#[test]
fn a_colour_does_not_outlive_its_line_nor_its_interruption() {
    let mut console = console();
    write(&mut console, B, "\x1b[31mred\n");
    assert_eq!(drain(&mut console), "[b] \x1b[31mred\x1b[0m\n");
    write(&mut console, A, "\x1b[7m> ");
    assert_eq!(drain(&mut console), "[a] \x1b[7m> ");
    write(&mut console, B, "x\n");
    assert_eq!(drain(&mut console), "^[b] x\n[a] \x1b[7m> ");
    assert!(ERASE.starts_with(b"\x1b[0m"));
}

#[test]
fn a_record_within_a_line_does_not_break_it() {
    let mut console = console();
    write(&mut console, A, "$ ");
    assert_eq!(drain(&mut console), "[a] $ ");
    assert!(console.record(&[1, 2]));
    write(&mut console, A, "x");
    assert_eq!(drain(&mut console), "x\x1b_CAQI=\x1b\\");
}

#[test]
fn a_long_line_is_cut_and_goes_on_in_the_next() {
    let mut console = console();
    let long = "x".repeat(700);
    write(&mut console, B, &long);
    write(&mut console, B, "\n");
    let shown = drain(&mut console);
    assert!(shown.lines().all(|line| line.starts_with("[b] x") && line.len() < 270));
    assert_eq!(shown.matches('x').count(), 700);
}

#[test]
fn controls_that_could_draw_elsewhere_do_not_pass() {
    assert_eq!(line_of(b"plain\ttext~"), b"plain\ttext~");
    assert_eq!(line_of(b"cr\r"), b"cr");
    assert_eq!(line_of(b"\x00\x07\x0b\x0c\x7f\x1a"), b"??????");
    assert_eq!(line_of(b"\x1b[2J"), b"");
    assert_eq!(line_of(b"a\x1b[1Ab\x1b[6n\x08c"), b"ab\x08c");
    assert_eq!(line_of(b"\x1b[6\x07n"), b"??n");
    assert_eq!(line_of(b"\x1b_Cforged\x1b\\"), b"?_Cforged?\\");
    assert_eq!(line_of(b"\x1b]0;title\x07"), b"?]0;title?");
    assert_eq!(line_of(b"\x1b[?25l"), b"??25l");
    assert_eq!(line_of(b"\x1bc"), b"?c");
    assert_eq!(line_of(b"\x1b\x1b[31m"), b"?\x1b[31m\x1b[0m");
    assert_eq!(line_of(b"\x1b[1;38;5;208mx"), b"\x1b[1;38;5;208mx\x1b[0m");
    assert_eq!(line_of(b"\x1b[1111111111111111m"), b"?111m");
}

#[test]
fn backspace_goes_back_no_farther_than_the_line() {
    assert_eq!(line_of(b"ab\x08\x08c"), b"ab\x08\x08c");
    assert_eq!(line_of(b"a\x08\x08\x08b"), b"a\x08b");
    assert_eq!(line_of(b"\x08[x] "), b"[x] ");
    // Characters that may take no column are nothing to go back over.
    assert_eq!(line_of("\u{200b}\u{200b}\x08\x08[x]".as_bytes()), "\u{200b}\u{200b}[x]".as_bytes());
}

#[test]
fn text_passes_as_utf_8_and_nothing_else_above_ascii() {
    let text = "Gr\u{fc}\u{df}e \u{2713} \u{1f600}";
    assert_eq!(line_of(text.as_bytes()), text.as_bytes());
    assert_eq!(line_of("\u{80}\u{9b}31m\u{9f}".as_bytes()), b"??31m?");
    assert_eq!(line_of("\u{a0}".as_bytes()), "\u{a0}".as_bytes());
    assert_eq!(line_of(b"\x9b2J"), b"?2J");
    assert_eq!(line_of(b"\xc0\x9b"), b"??");
    assert_eq!(line_of(b"\xe0\x80\x9b"), b"?");
    assert_eq!(line_of(b"\xed\xa0\x80"), b"?");
    assert_eq!(line_of(b"\xc3("), b"?(");
    assert_eq!(line_of(b"\xf5\xff\x80"), b"???");
}

#[test]
fn a_sequence_may_come_in_pieces() {
    let mut console = console();
    for byte in "\x1b[31m\u{2713}\n".as_bytes() {
        assert_eq!(console.write(B, &[*byte]), 1);
        if *byte != b'\n' {
            assert_eq!(drain(&mut console), "");
        }
    }
    assert_eq!(drain(&mut console), "[b] \x1b[31m\u{2713}\x1b[0m\n");
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn a_full_console_takes_nothing_and_loses_nothing() {
    let mut console = console();
    let text: String = (0..3_000).map(|line| format!("{line}\n")).collect();
    let (mut rest, mut shown) = (text.as_bytes(), String::new());
    let mut waited = 0;
    while !rest.is_empty() {
        let taken = console.write(B, rest);
        rest = &rest[taken..];
        if taken == 0 {
            waited += 1;
            shown.push_str(&drain(&mut console));
        }
    }
    shown.push_str(&drain(&mut console));
    let wanted: String = (0..3_000).map(|line| format!("[b] {line}\n")).collect();
    assert!(waited > 1);
    assert_eq!(shown, wanted);
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn one_that_writes_without_end_delays_others_by_its_budget_and_makes_them_lose_nothing() {
    let mut console = console();
    let (flood, mut shown, mut longest) = ("x".repeat(200) + "\n", String::new(), 0);
    for number in 0..500 {
        while console.write(B, flood.as_bytes()) > 0 {}
        while console.log(Some(B), 1, 2, &[7; 9]) {}
        write(&mut console, A, &format!("hello {number}\n"));
        assert!(console.line(format_args!("here {number}")));
        assert!(console.record(&[1]));
        let before = shown.len();
        while !shown[before..].contains(&format!("here {number}")) {
            shown.push(char::from(console.next_byte().unwrap()));
        }
        longest = longest.max(shown.len() - before);
    }
    assert!(longest < stream::ROOM + 100, "waited for {longest} bytes");
    for number in 0..500 {
        assert!(shown.contains(&format!("[a] hello {number}\r\n")));
    }
    assert_eq!(shown.matches("\x1b_CAQ==").count(), 499, "the last waits");
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn the_queue_never_grows() {
    let mut console = console();
    let before = console.queue.capacity();
    for vm in [A, B] {
        while console.write(vm, b"flood\n") > 0 {}
        while console.log(Some(vm), 1, 2, &[]) {}
        write(&mut console, vm, "");
        console.close(vm);
        console.open(vm, "again", "");
        assert_eq!(console.write(vm, b"\n"), 0, "its room is its predecessor's");
        console.close(vm);
    }
    while console.line(format_args!("{}", "z".repeat(600))) {}
    while console.record(&[]) {}
    assert_eq!(console.queue.capacity(), before);
}

#[test]
fn a_foreground_line_is_shown_while_another_writes_without_end() {
    let mut console = console();
    write(&mut console, B, &"y\n".repeat(100));
    write(&mut console, A, "$ ");
    let mut shown = Vec::new();
    for _ in 0..50 {
        shown.extend(console.next_byte());
    }
    assert!(String::from_utf8(shown).unwrap().contains("[a] $ \x1b[0m\r\x1b[K[b] y"));
}

#[test]
fn an_incomplete_line_waits_for_the_lines_before_it() {
    let mut console = console();
    write(&mut console, B, "one\ntwo\n");
    write(&mut console, A, "file\n$ ");
    assert_eq!(drain(&mut console), "[b] one\n[b] two\n[a] file\n[a] $ ");
}

#[test]
fn a_record_is_postcard_in_base64() {
    let mut console = console();
    let record = Record::Ended(Ended { vm: B, code: 77, cpu_time_ns: u64::MAX });
    assert!(console.record(&postcard::to_allocvec(&record).unwrap()));
    let bytes = payload(&drain_bytes(&mut console));
    assert_eq!(postcard::from_bytes::<Record<'_>>(&bytes).unwrap(), record);
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn a_log_record_reads_as_what_it_was_made_of() {
    let mut console = console();
    for (source, time_ns, sequence, length) in
        [(None, 0, 0, 0), (Some(A), 127, 128, 1), (Some(B), u64::MAX, u32::MAX, 1024), (Some(A), 1 << 63, 1 << 31, 300)]
    {
        let frame: Vec<u8> = (0..length).map(|byte: u32| byte.to_le_bytes()[0]).collect();
        assert!(console.log(source, time_ns, sequence, &frame));
        let wanted = Record::Log(Log { source, time_ns, sequence, frame: frame.into() });
        let bytes = payload(&drain_bytes(&mut console));
        assert_eq!(postcard::from_bytes::<Record<'_>>(&bytes).unwrap(), wanted);
    }
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn a_record_that_does_not_fit_is_lost_whole_and_counted() {
    let mut console = console();
    let frame = [0xaa; 1000];
    let mut taken = 0;
    while console.log(Some(B), 1, 2, &frame) {
        taken += 1;
    }
    assert!(taken > 1);
    assert!(console.log(Some(A), 1, 2, &frame), "another VM's share is its own");
    assert!(console.record(&frame), "and so is the hypervisor's");
    assert!(!console.record(&[0; 49_000]), "longer than any unit");
    let ends = drain(&mut console).matches("\x1b\\").count();
    assert_eq!(ends, taken + 2);
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn own_lines_are_cut_cleaned_and_lost_whole() {
    let mut console = console();
    assert!(console.line(format_args!("a\nb\x1b[2J{}", "z".repeat(1000))));
    let shown = drain(&mut console);
    assert!(shown.starts_with("cloister: a?b?[2Jzzz"));
    assert_eq!((shown.len(), shown.matches('\n').count()), (511, 1));
    let taken = (0..200).filter(|_| console.line(format_args!("{}", "z".repeat(600)))).count();
    assert!(taken < 200);
    assert_eq!(drain(&mut console).lines().count(), taken);
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn a_vm_that_ends_leaves_its_last_words_even_when_its_share_is_full() {
    let mut console = console();
    while console.write(B, b"words\n") == 6 {}
    assert_eq!(console.write(B, b"\n"), 0);
    while console.log(Some(B), 1, 2, &[]) {}
    write(&mut console, B, "last");
    console.close(B);
    assert_eq!(console.write(B, b"from the grave\n"), 0);
    let shown = drain(&mut console);
    assert!(shown.ends_with("[b] wordslast\n"), "{shown}");
}

#[test]
fn the_foreground_passes_on_when_its_vm_ends() {
    let mut console = console();
    write(&mut console, A, "bye");
    assert_eq!(drain(&mut console), "[a] bye");
    console.close(A);
    assert_eq!(console.foreground(), Some(B));
    let shown = drain(&mut console);
    assert!(shown.contains("cloister: the console's input goes to [b] from now on\n"), "{shown}");
    console.close(B);
    assert_eq!(console.foreground(), None);
    assert_eq!(console.receive(b'x'), None);
}

#[test]
fn the_switch_key_goes_round_the_live_vms_and_reaches_none() {
    let mut console = console();
    console.open(VmId(2), "c", "");
    for wanted in [1, 2, 0, 1] {
        assert_eq!(console.receive(SWITCH_KEY), None);
        assert_eq!(console.foreground(), Some(VmId(wanted)));
    }
    console.close(VmId(2));
    assert_eq!(console.receive(SWITCH_KEY), None);
    assert_eq!(console.foreground(), Some(A));
    assert_eq!(console.peek(A, &mut [0; 8]), 0);
}

#[test]
fn a_switch_takes_the_line_of_the_one_before_back() {
    let mut console = console();
    write(&mut console, A, "a> ");
    write(&mut console, B, "b> ");
    assert_eq!(drain(&mut console), "[a] a> ");
    assert_eq!(console.receive(SWITCH_KEY), None);
    assert_eq!(drain(&mut console), "^cloister: the console's input goes to [b] from now on\n[b] b> ");
    write(&mut console, A, "x\n");
    assert_eq!(drain(&mut console), "^[a] a> x\n[b] b> ");
}

#[test]
fn typed_bytes_reach_the_foreground_in_order_and_once() {
    let mut console = console();
    for byte in b"hello" {
        assert_eq!(console.receive(*byte), Some(Typed::Input(A)));
    }
    let mut buffer = [0; 3];
    assert_eq!((console.peek(A, &mut buffer), &buffer), (3, b"hel"));
    assert_eq!((console.peek(A, &mut buffer), &buffer), (3, b"hel"));
    console.consume(A, 3);
    assert_eq!((console.peek(A, &mut buffer), &buffer[..2]), (2, &b"lo"[..]));
    assert_eq!(console.peek(B, &mut buffer), 0);
    console.consume(A, 99);
    assert_eq!(console.peek(A, &mut buffer), 0);
}

#[test]
fn typed_bytes_beyond_the_queue_are_lost() {
    let mut console = console();
    for count in 0..300_u32 {
        let taken = console.receive(count.to_le_bytes()[0] | 0x80).is_some();
        assert_eq!(taken, count < 256);
    }
    let mut buffer = [0; 300];
    assert_eq!(console.peek(A, &mut buffer), 256);
}

#[test]
fn a_name_is_shown_without_what_could_mislead() {
    let mut console = Console::new(1);
    console.open(A, "x]\n\x1b[2J y\u{e9}", "");
    write(&mut console, A, "t\n");
    assert_eq!(drain(&mut console), "[x]??[2J?y??] t\n");
}

#[test]
fn a_vm_that_is_not_there_is_harmless() {
    let mut console = console();
    for vm in [VmId(2), VmId(3), VmId(u32::MAX)] {
        assert_eq!(console.write(vm, b"x\n"), 0);
        console.close(vm);
        assert_eq!(console.peek(vm, &mut [0; 4]), 0);
    }
    assert_eq!(console.foreground(), Some(A));
    assert!(!console.log(Some(VmId(9)), 0, 0, &[]));
}

#[test]
fn base64_has_the_published_test_vectors() {
    for (plain, text) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert!(base64::encode(plain.as_bytes()).eq(text.bytes()), "{plain}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(VmId, Vec<u8>),
    Own,
    Log(VmId),
    Drain(usize),
    Switch,
}

fn step(bytes: impl Strategy<Value = Vec<u8>> + Clone) -> impl Strategy<Value = Step> {
    let vm = || (0..2_u32).prop_map(VmId);
    prop_oneof![
        6 => (vm(), bytes).prop_map(|(vm, bytes)| Step::Write(vm, bytes)),
        1 => Just(Step::Own),
        1 => vm().prop_map(Step::Log),
        4 => (0..80_usize).prop_map(Step::Drain),
        1 => Just(Step::Switch),
    ]
}

/// Runs the steps; what went out, and what each VM wrote.
fn run(steps: &[Step]) -> (Vec<u8>, [Vec<u8>; 2]) {
    let (mut console, mut out, mut written) = (console(), Vec::new(), [Vec::new(), Vec::new()]);
    for step in steps {
        match step {
            Step::Write(vm, bytes) => {
                let taken = console.write(*vm, bytes);
                written[vm.0 as usize].extend(&bytes[..taken]);
            }
            Step::Own => assert!(console.line(format_args!("own"))),
            Step::Log(vm) => {
                let _taken = console.log(Some(*vm), 1, 2, &[1, 2, 3]);
            }
            Step::Drain(count) => out.extend((0..*count).map_while(|_| console.next_byte())),
            Step::Switch => assert_eq!(console.receive(SWITCH_KEY), None),
        }
    }
    out.extend(drain_bytes(&mut console));
    (out, written)
}

/// Takes the records out, as a tool does.
fn without_records(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        if rest.starts_with(PREFIX) {
            let end = rest.windows(2).position(|pair| pair == SUFFIX).unwrap();
            let bytes = payload(&rest[..end + 2]);
            assert!(postcard::from_bytes::<Record<'_>>(&bytes).is_ok());
            rest = &rest[end + 2..];
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

/// What stands on a screen at the end, records taken out, incomplete lines taken back.
fn screen(bytes: &[u8]) -> Vec<u8> {
    let mut screen = Vec::new();
    for byte in without_records(bytes) {
        screen.push(byte);
        if screen.ends_with(ERASE) {
            let line = screen.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            screen.truncate(line);
        }
    }
    screen
}

/// The parts of a text between marks.
fn split<'a>(text: &'a [u8], mark: &[u8]) -> Vec<&'a [u8]> {
    let (mut parts, mut from) = (Vec::new(), 0);
    while let Some(at) = text[from..].windows(mark.len()).position(|window| window == mark) {
        parts.push(&text[from..from + at]);
        from += at + mark.len();
    }
    parts.push(&text[from..]);
    parts
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn any_bytes_give_lines_with_an_honest_prefix_and_no_command_but_colour(
        steps in prop::collection::vec(
            step(prop::collection::vec(
                prop_oneof![any::<u8>(), Just(0x1b), Just(b'['), Just(b'm'), Just(b'\n'), Just(8), Just(0xc2)],
                0..60,
            )),
            1..60,
        ),
    ) {
        let (out, _) = run(&steps);
        let text = without_records(&out);
        for line in split(&text, ERASE).into_iter().flat_map(|part| split(part, b"\r\n")) {
            let honest = [&b"[a] "[..], b"[b] ", b"cloister: "];
            // One that is taken back may have got no farther.
            let fresh = honest.iter().any(|prefix| line.starts_with(prefix) || prefix.starts_with(line));
            prop_assert!(fresh, "{:?}", String::from_utf8_lossy(line));
            let mut columns = 0_i32;
            let mut rest = line;
            while let [byte, tail @ ..] = rest {
                rest = tail;
                match byte {
                    0x1b => {
                        // A line that was interrupted may end within a colour, right behind its escape too.
                        let length = rest.iter().position(|byte| *byte == b'm');
                        prop_assert!(rest.first().is_none_or(|byte| *byte == b'['), "{rest:?}");
                        let Some(length) = length else { break };
                        let inside = &rest[1..length];
                        let plain = inside.iter().all(|byte| byte.is_ascii_digit() || *byte == b';');
                        prop_assert!(plain, "{inside:?}");
                        rest = &rest[length + 1..];
                    }
                    8 => columns -= 1,
                    b'\t' | 0x20..=0x7e => columns += 1,
                    0x80..=0xff => {}
                    _ => prop_assert!(false, "{byte:#x} passed"),
                }
                prop_assert!(columns >= 0 && (columns >= 4 || rest.len() + 4 > line.len()));
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn every_complete_line_appears_once_and_in_order(
        steps in prop::collection::vec(
            // Complete lines end in a full stop, so that no part of one looks like another.
            step(prop::collection::vec(prop_oneof!["[a-e]", Just(".\n".into())], 0..20)
                .prop_map(|text: Vec<String>| text.concat().into_bytes())),
            1..60,
        ),
    ) {
        let (out, written) = run(&steps);
        let shown = String::from_utf8(screen(&out)).unwrap();
        for (prefix, written) in ["[a] ", "[b] "].into_iter().zip(written) {
            let written = String::from_utf8(written).unwrap();
            let (complete, last) = written.rsplit_once('\n').map_or(("", &*written), |(head, last)| (head, last));
            let mut lines: Vec<_> = shown.lines().filter_map(|line| line.strip_prefix(prefix)).collect();
            if !shown.ends_with('\n') && lines.last() == Some(&last) {
                lines.pop();
            }
            prop_assert_eq!(lines, complete.lines().collect::<Vec<_>>());
        }
    }
}

/// Consoles of two labelled VMs; `low` is in the foreground.
fn labelled() -> Console {
    let mut console = Console::new(2);
    console.open(A, "low", "public");
    console.open(B, "high", "secret {red}");
    console
}

fn type_keys(console: &mut Console, keys: &str) -> Vec<Option<Typed>> {
    keys.bytes().map(|byte| console.receive(byte)).collect()
}

#[test]
fn the_attention_key_shows_every_vm_with_its_label_and_gives_the_input_to_the_one_chosen() {
    let mut console = labelled();
    console.attention();
    let shown = drain(&mut console);
    assert!(shown.contains("cloister: SECURE ATTENTION"), "{shown}");
    for line in ["  0  back [low]", "  1  [low] public", "  2  [high] secret {red}"] {
        assert!(shown.contains(&format!("cloister: {line}")), "{line} is not in {shown}");
    }
    assert_eq!(type_keys(&mut console, "2\r"), [None, None], "no VM gets the choice");
    assert_eq!(console.foreground(), Some(B));
    let shown = drain(&mut console);
    assert_eq!(shown, "2\ncloister: the console's input goes to [high] from now on (secret {red})\n");
    assert_eq!(console.receive(b'x'), Some(Typed::Input(B)));
}

#[test]
fn while_the_trusted_path_is_open_no_vm_is_heard_shown_or_hears() {
    let mut console = labelled();
    write(&mut console, A, "$ ");
    assert_eq!(console.receive(b'p'), Some(Typed::Input(A)));
    assert_eq!(drain(&mut console), "[low] $ ");
    console.attention();
    drain(&mut console);
    assert_eq!(console.peek(A, &mut [0; 8]), 0, "what was typed ahead is gone");
    assert_eq!(console.write(A, b"cloister: type your password\n"), 0);
    assert_eq!(console.write(B, b"x"), 0);
    assert!(!console.log(Some(A), 1, 2, &[]));
    assert!(console.log(None, 1, 2, &[]));
    drain_bytes(&mut console);
    assert!(type_keys(&mut console, "secret\r").iter().all(Option::is_none));
    assert_eq!(console.peek(A, &mut [0; 8]), 0);
    drain(&mut console);
    assert_eq!(console.foreground(), Some(A));
    let shown = drain(&mut console);
    assert_eq!(shown, "", "nothing is left over");
    assert_eq!(console.write(A, b"a"), 1, "the bare Return led back");
}

#[test]
fn a_wrong_choice_asks_again_and_the_switch_key_does_nothing_in_the_menu() {
    let mut console = labelled();
    console.attention();
    drain(&mut console);
    for keys in ["7\r", "q", "\x1d", "99999999999999\r"] {
        assert!(type_keys(&mut console, keys).iter().all(Option::is_none));
        assert!(drain(&mut console).contains("there is no such choice"), "{keys:?}");
        assert_eq!(console.write(A, b"x"), 0, "{keys:?}");
    }
    console.close(B);
    drain(&mut console);
    type_keys(&mut console, "2\r");
    assert!(drain(&mut console).contains("there is no such choice"), "an ended VM is none");
    type_keys(&mut console, "0\r");
    assert_eq!((console.foreground(), console.write(A, b"x")), (Some(A), 1));
}

#[test]
fn a_minus_in_front_of_a_choice_ends_the_vm() {
    let mut console = labelled();
    console.attention();
    drain(&mut console);
    for keys in ["-\r", "-0\r", "-9\r", "1-\r", "--\r"] {
        let before = console.foreground();
        assert!(type_keys(&mut console, keys).iter().all(Option::is_none), "{keys}");
        assert!(drain(&mut console).contains("there is no such choice"), "{keys}");
        console.attention();
        drain(&mut console);
        assert_eq!(console.foreground(), before);
    }
    assert_eq!(type_keys(&mut console, "-2\r"), [None, None, Some(Typed::End(B))]);
    assert_eq!((console.foreground(), console.write(B, b"x")), (Some(A), 1), "until it has ended it is heard");
    console.attention();
    type_keys(&mut console, "2\r");
    assert_eq!(console.foreground(), Some(B), "the minus is forgotten");
}

#[test]
fn a_guest_cannot_begin_a_line_like_the_hypervisors() {
    let mut console = labelled();
    write(&mut console, A, "x\r\ncloister: SECURE ATTENTION\n\x1b[1Acloister: hi\n");
    for line in drain(&mut console).lines() {
        assert!(line.starts_with("[low] "), "{line}");
    }
}

#[test]
fn with_partitions_what_a_vm_can_write_depends_on_its_own_slot_alone() {
    let mut console = Console::new(2).holding();
    console.open(VmId(0), "a", "low");
    console.open(VmId(1), "b", "low");
    for _ in 0..20 {
        while console.write(VmId(1), &[b'x'; 100]) > 0 {}
        console.release(VmId(1));
    }
    let first = std::iter::repeat_with(|| console.write(VmId(0), b"0123456789\n")).take_while(|taken| *taken > 0);
    let taken: Vec<usize> = first.collect();
    assert!(taken.len() > 70 && taken[..70].iter().all(|taken| *taken == 11), "a full queue of another is not felt");
    assert_eq!(console.write(VmId(0), b"no more in this slot"), 0);
    assert!(!console.log(Some(VmId(0)), 1, 1, b"nor a record"));
    console.release(VmId(0));
    assert_eq!(console.write(VmId(0), b"next slot\n"), 10);
    console.release(VmId(0));
    let mut out = Vec::new();
    while let Some(byte) = console.next_byte() {
        out.push(byte);
    }
    let text = String::from_utf8_lossy(&out);
    assert!(text.contains("[a] 0123456789\r\n[a] 0123456789") && text.contains("next slot\r\n"));
}

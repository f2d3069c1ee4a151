//! Rust source without comments, texts and tests, line by line, so that words in them are not taken
//! for code.

/// The code of a file: comments gone, every character of a text replaced by `"`.
pub fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (length, kind) = token(rest, out.chars().next_back());
        let (token, after) = rest.split_at_checked(length.max(c.len_utf8())).unwrap_or((rest, ""));
        match kind {
            Kind::Code => out.push_str(token),
            Kind::Comment => out.extend(token.chars().filter(|c| *c == '\n')),
            Kind::Text => out.extend(token.chars().map(|c| if c == '\n' { '\n' } else { '"' })),
        }
        rest = after;
    }
    out
}

/// What a piece of source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Text,
}

/// The length and kind of what the source begins with.
fn token(rest: &str, before: Option<char>) -> (usize, Kind) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), Kind::Comment);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), Kind::Comment);
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if !in_word && let Some(length) = raw_text(rest) {
        return (length, Kind::Text);
    }
    if rest.starts_with('"') {
        return (quoted(rest, '"'), Kind::Text);
    }
    // A character, not a lifetime: `'x'` or `'\...'`.
    if rest.starts_with("'\\") || (rest.starts_with('\'') && rest.chars().nth(2) == Some('\'')) {
        return (quoted(rest, '\''), Kind::Text);
    }
    (0, Kind::Code)
}

/// The length of a block comment, nested ones included.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(tail) = rest.get(at..).filter(|tail| !tail.is_empty()) {
        if tail.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += tail.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of a text in quotes.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, c) in rest.char_indices().skip(1) {
        if c == quote && !escaped {
            return index + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

/// The length of a raw text (`r"..."`, `br#"..."#`), if the source begins with one.
fn raw_text(rest: &str) -> Option<usize> {
    let tail = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = tail.len() - tail.trim_start_matches('#').len();
    let body = tail.get(hashes..)?.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(rest.len() - body.len() + length)
}

/// The code without items that are compiled for tests only.
pub fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, item) = rest.split_at_checked(at).unwrap_or((rest, ""));
        out.push_str(before);
        rest = item.get(item_length(item)..).unwrap_or("");
    }
    out + rest
}

/// The length of an item: up to a semicolon or to the brace that closes its first one.
fn item_length(item: &str) -> usize {
    let mut depth = 0usize;
    for (index, c) in item.char_indices() {
        match c {
            ';' if depth == 0 => return index + 1,
            '{' => depth += 1,
            '}' if depth <= 1 => return index + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    item.len()
}

/// How many lines hold code.
pub fn lines_of_code(code: &str) -> usize {
    code.lines().filter(|line| !line.trim().is_empty()).count()
}

/// The numbers of the lines that hold a word, from 1.
pub fn lines_with_word(code: &str, word: &str) -> Vec<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.lines()
        .enumerate()
        .filter(|(_, line)| line.split(|c| !is_part(c)).any(|other| other == word))
        .map(|(index, _)| index + 1)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{code, lines_of_code, lines_with_word, without_tests};

    #[test]
    fn words_in_comments_and_texts_are_no_code() {
        let text = "// unsafe\nlet a = \"unsafe\\\" unsafe\"; /* unsafe /* x */ unsafe */\nlet c = r#\"unsafe \" x\"#;\nlet d = '\"'; unsafe {}\n";
        assert_eq!(lines_with_word(&code(text), "unsafe"), [4]);
    }

    #[test]
    fn lifetimes_are_no_texts() {
        assert_eq!(code("fn f<'a>(x: &'a str) -> &'a str { x }"), "fn f<'a>(x: &'a str) -> &'a str { x }");
    }

    #[test]
    fn tests_blanks_and_comments_are_not_counted() {
        let text = "//! head\n\nfn a() {\n    // why\n    b()\n}\n#[cfg(test)]\nmod tests {\n    fn t() { if x {} }\n}\nfn c() {}\n#[cfg(test)]\nmod more;\n";
        assert_eq!(lines_of_code(&without_tests(&code(text))), 4);
    }

    #[test]
    fn lines_of_a_long_text_count() {
        assert_eq!(lines_of_code(&code("asm!(\"\n  hlt\n\");\n")), 3);
    }
}

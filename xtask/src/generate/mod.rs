//! Texts made of the protocol's tables: the C header and the reference pages. Pure functions; the
//! commands write the files or compare them.

pub mod advisories;
pub mod attacks;
pub mod errors;
pub mod header;
pub mod instructions;
pub mod ledger;
pub mod reference;

/// The lines of a documentation comment without its left margin and without Rust's link marks.
pub fn doc_lines(doc: &str) -> Vec<String> {
    let text = doc.replace("[`crate::", "`").replace("[`", "`").replace("`]", "`");
    text.trim_end().lines().map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned()).collect()
}

/// `SomeName` as `some_name`.
pub fn snake(name: &str) -> String {
    let mut snake = String::new();
    for (index, c) in name.char_indices() {
        if c.is_ascii_uppercase() && index > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// `SomeName` as `SOME_NAME`.
pub fn shout(name: &str) -> String {
    snake(name).to_ascii_uppercase()
}

/// One set of numbers with names: a choice or the bits of a flag word.
pub struct Numbers {
    /// Its Rust name.
    pub name: &'static str,
    /// What it is for.
    pub what: &'static str,
    /// Whether the numbers are bits that can be combined.
    pub bits: bool,
    /// Names in Rust's spelling, and values.
    pub values: Vec<(String, u64)>,
}

/// Every choice and flag word of the protocol.
pub fn numbers() -> Vec<Numbers> {
    use protocol::flags;
    /// The entries of a choice.
    macro_rules! choice {
        ($name:ident, $what:literal) => {
            Numbers {
                name: stringify!($name),
                what: $what,
                bits: false,
                values: flags::$name::ALL.iter().map(|(_, number, name)| ((*name).to_owned(), *number)).collect(),
            }
        };
    }
    /// The bits of a flag word.
    macro_rules! flags {
        ($name:ident, $what:literal) => {
            Numbers {
                name: stringify!($name),
                what: $what,
                bits: true,
                values: flags::$name::all().iter_names().map(|(name, flag)| (name.to_owned(), flag.bits())).collect(),
            }
        };
    }
    vec![
        flags!(MapFlags, "How a page may be used"),
        flags!(GrantFlags, "What the receiver of a grant may do"),
        flags!(Features, "What the running hypervisor offers"),
        choice!(InfoTopic, "What `info` can tell"),
        choice!(EventSource, "What makes a port pending"),
        choice!(SegmentBase, "A segment base that a guest sets by a call"),
        choice!(IoWidth, "How much of an I/O port is read or written at once"),
        choice!(CopyDirection, "Which way `grant_copy` copies"),
        choice!(MemoryOperation, "What one entry of `memory_batch` does"),
    ]
}

/// A table in Markdown.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(head.iter().map(|cell| (*cell).to_owned()).collect());
    text += &line(vec!["---".to_owned(); head.len()]);
    for row in rows {
        text += &line(row.iter().map(|cell| cell.replace('|', "\\|")).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{doc_lines, shout, snake};

    #[test]
    fn names_change_their_spelling() {
        assert_eq!(snake("OwnVcpu"), "own_vcpu");
        assert_eq!(shout("InfoTopic"), "INFO_TOPIC");
        assert_eq!(shout("WRITE"), "W_R_I_T_E");
    }

    #[test]
    fn documentation_loses_its_margin_and_link_marks() {
        assert_eq!(doc_lines(" See [`crate::call::Map`].\n It maps.\n"), ["See `call::Map`.", "It maps."]);
    }
}

//! Reads tables of a TOML file key by key, remembering lines, so that every complaint names file,
//! line and key. Knows nothing about what the keys mean.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::codes::{self, Code};

/// One error of a system file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The stable code.
    pub code: &'static Code,
    /// What is wrong.
    pub what: String,
    /// The file.
    pub file: String,
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// The key, with the tables it stands in.
    pub key: String,
    /// What to do, when more is known than the code's page says.
    pub remedy: Option<String>,
}

impl ConfigError {
    /// The same error with a remedy of its own.
    pub fn remedy(mut self, remedy: impl Into<String>) -> ConfigError {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error[{}]: {}", self.code.id, self.what)?;
        write!(f, "  --> {}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        writeln!(f)?;
        writeln!(f, "  why: {}", self.code.why)?;
        writeln!(f, "  try: {}", self.remedy.as_deref().unwrap_or(self.code.remedy))?;
        write!(f, "  see: docs/errors/{}.md", self.code.id)
    }
}

/// A place in a system file: where a value stands and which key it belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// The key, with the tables it stands in.
    pub key: String,
}

/// The text of a system file and its name.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The name that errors show.
    pub file: &'a str,
    /// What it holds.
    pub text: &'a str,
}

impl Source<'_> {
    /// The line of a byte offset.
    pub fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        1 + before.bytes().filter(|byte| *byte == b'\n').count()
    }

    /// An error at a place.
    pub fn error(&self, code: &'static Code, place: &Place, what: impl Into<String>) -> ConfigError {
        ConfigError {
            code,
            what: what.into(),
            file: self.file.to_owned(),
            line: place.line,
            key: place.key.clone(),
            remedy: None,
        }
    }
}

/// A value with its place. What a reader returns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// Reads one table. Every key must be asked for before [`TableReader::finish`].
pub struct TableReader<'a, 'e> {
    source: Source<'a>,
    table: &'a DeTable<'a>,
    path: String,
    line: usize,
    known: Vec<&'static str>,
    errors: &'e mut Vec<ConfigError>,
}

impl<'a, 'e> TableReader<'a, 'e> {
    /// A reader of `table`, which stands at `path` (empty for the file itself).
    pub fn new(
        source: Source<'a>,
        table: &'a DeTable<'a>,
        place: Place,
        errors: &'e mut Vec<ConfigError>,
    ) -> TableReader<'a, 'e> {
        TableReader { source, table, path: place.key, line: place.line, known: Vec::new(), errors }
    }

    /// The place of the table itself.
    pub fn place(&self) -> Place {
        Place { line: self.line, key: self.path.clone() }
    }

    /// Where errors go.
    pub fn errors(&mut self) -> &mut Vec<ConfigError> {
        self.errors
    }

    /// The file that is read.
    pub fn source(&self) -> Source<'a> {
        self.source
    }

    /// Records an error.
    pub fn refuse(&mut self, code: &'static Code, place: &Place, what: impl Into<String>) {
        let error = self.source.error(code, place, what);
        self.errors.push(error);
    }

    /// The value of a key, if it stands there.
    pub fn value(&mut self, key: &'static str) -> Option<Placed<&'a DeValue<'a>>> {
        self.known.push(key);
        let value: &Spanned<DeValue<'a>> = self.table.get(key)?;
        Some(Placed {
            value: value.get_ref(),
            place: Place { line: self.source.line(&value.span()), key: self.key_path(key) },
        })
    }

    /// Whether a key stands there.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Where a key's value stands, or the table if it does not stand there.
    pub fn place_of(&self, key: &str) -> Place {
        match self.table.get(key) {
            Some(value) => Place { line: self.source.line(&value.span()), key: self.key_path(key) },
            None => self.place(),
        }
    }

    /// A key with the tables that it stands in.
    fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Option<Placed<String>> {
        let found = self.value(key)?;
        match found.value.as_str() {
            Some(text) => Some(Placed { value: text.to_owned(), place: found.place }),
            None => self.wrong_type(&found, "a text"),
        }
    }

    /// A text that must be there.
    pub fn required_text(&mut self, key: &'static str) -> Option<Placed<String>> {
        if !self.table.contains_key(key) {
            let place = self.place();
            self.known.push(key);
            self.refuse(codes::MISSING_KEY, &place, format!("`{key}` is missing"));
            return None;
        }
        self.text(key)
    }

    /// A whole number within bounds.
    pub fn number(&mut self, key: &'static str, bounds: std::ops::RangeInclusive<u64>) -> Option<Placed<u64>> {
        let found = self.value(key)?;
        let Some(number) = integer(found.value) else {
            return self.wrong_type(&found, "a whole number");
        };
        match u64::try_from(number) {
            Ok(number) if bounds.contains(&number) => Some(Placed { value: number, place: found.place }),
            _ => {
                let what = format!("`{key}` is {number}, it can be {} to {}", bounds.start(), bounds.end());
                self.refuse(codes::BAD_VALUE, &found.place, what);
                None
            }
        }
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &'static str) -> bool {
        let Some(found) = self.value(key) else {
            return false;
        };
        found.value.as_bool().or_else(|| self.wrong_type(&found, "true or false")).unwrap_or(false)
    }

    /// An amount of memory such as `"16M"`, in whole pages, as bytes.
    pub fn size(&mut self, key: &'static str) -> Option<Placed<u64>> {
        let found = self.text(key)?;
        match parse_size(&found.value) {
            Ok(bytes) => Some(Placed { value: bytes, place: found.place }),
            Err(what) => {
                self.refuse(codes::BAD_VALUE, &found.place, format!("`{key}` {what}"));
                None
            }
        }
    }

    /// A text or a list of texts, as a list.
    pub fn text_or_texts(&mut self, key: &'static str) -> Vec<Placed<String>> {
        let found = self.value(key);
        match found.and_then(|found| Some((found.value.as_str()?, found.place))) {
            Some((text, place)) => vec![Placed { value: text.to_owned(), place }],
            None => self.texts(key),
        }
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &'static str) -> Vec<Placed<String>> {
        let mut texts = Vec::new();
        for item in self.list(key) {
            match item.value.as_str() {
                Some(text) => texts.push(Placed { value: text.to_owned(), place: item.place }),
                None => {
                    let _: Option<()> = self.wrong_type(&item, "a text");
                }
            }
        }
        texts
    }

    /// A list of whole numbers within bounds.
    pub fn numbers(&mut self, key: &'static str, bounds: &std::ops::RangeInclusive<u64>) -> Vec<Placed<u64>> {
        let mut numbers = Vec::new();
        for item in self.list(key) {
            match integer(item.value).and_then(|number| u64::try_from(number).ok()) {
                Some(number) if bounds.contains(&number) => numbers.push(Placed { value: number, place: item.place }),
                _ => {
                    let what = format!("`{key}` takes numbers from {} to {}", bounds.start(), bounds.end());
                    self.refuse(codes::BAD_VALUE, &item.place, what);
                }
            }
        }
        numbers
    }

    /// The items of a list.
    pub fn list(&mut self, key: &'static str) -> Vec<Placed<&'a DeValue<'a>>> {
        let Some(found) = self.value(key) else {
            return Vec::new();
        };
        let Some(array) = found.value.as_array() else {
            let _: Option<()> = self.wrong_type(&found, "a list");
            return Vec::new();
        };
        array
            .iter()
            .map(|item| Placed {
                value: item.get_ref(),
                place: Place { line: self.source.line(&item.span()), key: found.place.key.clone() },
            })
            .collect()
    }

    /// The tables of a list, such as all `[[vm]]`, each with its place.
    pub fn tables(&mut self, key: &'static str) -> Vec<Placed<&'a DeTable<'a>>> {
        let mut tables = Vec::new();
        for item in self.list(key) {
            match item.value.as_table() {
                Some(table) => tables.push(Placed { value: table, place: item.place }),
                None => {
                    let _: Option<()> = self.wrong_type(&item, "a table");
                }
            }
        }
        tables
    }

    /// A table below this one.
    pub fn table(&mut self, key: &'static str) -> Option<Placed<&'a DeTable<'a>>> {
        let found = self.value(key)?;
        match found.value.as_table() {
            Some(table) => Some(Placed { value: table, place: found.place }),
            None => self.wrong_type(&found, "a table"),
        }
    }

    /// Records that a value has another type than it should have.
    fn wrong_type<T>(&mut self, found: &Placed<&DeValue<'_>>, wanted: &str) -> Option<T> {
        let what = format!(
            "`{}` is {} {}, it must be {wanted}",
            found.place.key,
            if found.value.type_str().starts_with(['a', 'i']) { "an" } else { "a" },
            found.value.type_str(),
        );
        self.refuse(codes::WRONG_TYPE, &found.place, what);
        None
    }

    /// Refuses every key that nobody asked for.
    pub fn finish(self) {
        for (key, _) in self.table.iter() {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place = Place { line: self.source.line(&key.span()), key: self.key_path(name) };
            let mut error = self.source.error(codes::UNKNOWN_KEY, &place, format!("unknown key `{name}`"));
            error.remedy = Some(match nearest(name, &self.known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys here: {}", self.known.join(", ")),
            });
            self.errors.push(error);
        }
    }
}

/// The number of a TOML integer.
fn integer(value: &DeValue<'_>) -> Option<i128> {
    let number = value.as_integer()?;
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Reads an amount of memory: a whole number and K, M or G.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.get(digits.len()..).unwrap_or("");
    let shift = match unit.trim_end_matches("iB").trim() {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => {
            return Err(format!("is \"{text}\", it must be a number with K, M or G, such as \"16M\""));
        }
    };
    let number: u64 = digits.parse().map_err(|_| format!("is \"{text}\", it must begin with a whole number"))?;
    let bytes = number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes <= 1 << 46)
        .ok_or_else(|| format!("is \"{text}\", more than any machine has"))?;
    if bytes == 0 || bytes % protocol::layout::PAGE_SIZE != 0 {
        return Err(format!("is \"{text}\", it must be a multiple of 4K above 0"));
    }
    Ok(bytes)
}

/// The known key that differs least from a misspelt one.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|key| (distance(name, key), *key))
        .filter(|(distance, key)| *distance <= 1 + key.len() / 4)
        .min()
        .map(|(_, key)| key)
}

/// Levenshtein's distance: how many single-letter edits lead from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, a) in from.bytes().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        let mut next = vec![left];
        for (b, above) in to.bytes().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(a != b)).min(left + 1).min(above + 1);
            next.push(left);
            diagonal = *above;
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

//! What people and programs read: tables, JSON, times. Data goes to standard output through [`stdout`].

use std::fmt;
use std::io::{self, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

/// How a listing is printed.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArguments {
    /// A table for people, or JSON for programs.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub output: Format,
}

/// The form of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns with a heading.
    Table,
    /// The server's own objects, as it names their fields.
    Json,
}

/// Whoever read our output has seen enough.
#[derive(Debug, thiserror::Error)]
#[error("the reader of standard output is gone")]
pub struct ReaderGone;

/// Standard output, whose closing can be told from that of any other pipe or connection.
#[derive(Debug)]
pub struct Stdout(io::Stdout);

/// Standard output.
pub fn stdout() -> Stdout {
    Stdout(io::stdout())
}

fn mark(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, ReaderGone),
        _ => error,
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(mark)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(mark)
    }
}

/// Prints `value` as JSON.
///
/// # Errors
/// When standard output cannot be written.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    let mut out = stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Rows in columns as wide as they need to be.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a heading.
    pub fn new(heading: &[&str]) -> Self {
        Self {
            rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()],
        }
    }

    /// Adds a row. Control characters, which a server could pass on from anywhere, do not reach the terminal.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows
            .push(cells.into_iter().map(|cell| clean(&cell)).collect());
    }

    /// Prints it.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn print(&self) -> io::Result<()> {
        let mut out = stdout();
        write!(out, "{self}")?;
        out.flush()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// The first line of a text without control characters.
pub fn clean(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).collect()
}

/// `-` for what is not there.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The first digits of a digest, enough for people.
pub fn short(digest: &oci::Digest) -> String {
    digest.hex().chars().take(12).collect()
}

/// UTC milliseconds since 1970, now.
pub fn now_ms() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// A span of time: `850 ms`, `12 s`, `3 min`, `5 h`, `2 d`.
pub fn span(milliseconds: i64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        ..1 => format!("{} ms", milliseconds.max(0)),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// How long ago a time is, or how far ahead.
pub fn relative(at_ms: i64, now_ms: i64) -> String {
    match now_ms.saturating_sub(at_ms) {
        // The clocks of server and caller differ a little.
        -2000..1000 => "now".to_owned(),
        ago if ago > 0 => format!("{} ago", span(ago)),
        ahead => format!("in {}", span(ahead.saturating_neg())),
    }
}

/// A time for people: date and time in UTC, and how long ago it is.
pub fn moment(at_ms: i64, now_ms: i64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let at = OffsetDateTime::from_unix_timestamp(at_ms.div_euclid(1000));
    match at.ok().and_then(|at| at.format(&format).ok()) {
        Some(at) => format!("{at} ({})", relative(at_ms, now_ms)),
        None => format!("{at_ms} ms since 1970"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_are_dropped() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(vec!["a-long-name".to_owned(), "ready".to_owned()]);
        table.row(vec!["b".to_owned(), "\x1b[31mfailed\nsecond line".to_owned()]);
        assert_eq!(
            table.to_string(),
            "NAME         STATE\na-long-name  ready\nb            [31mfailed\n"
        );
    }

    #[test]
    fn times_are_told_as_people_do() {
        let now = 1_800_000_000_000;
        for (ago_ms, expected) in [
            (0, "now"),
            (-1500, "now"),
            (1_000, "1 s ago"),
            (119_000, "119 s ago"),
            (120_000, "2 min ago"),
            (7_200_000, "2 h ago"),
            (200_000_000, "2 d ago"),
            (-3_600_000, "in 60 min"),
        ] {
            assert_eq!(relative(now - ago_ms, now), expected);
        }
        assert_eq!(moment(0, 60_000), "1970-01-01 00:00:00 UTC (60 s ago)");
        assert_eq!(span(850), "850 ms");
        assert!(moment(i64::MAX, 0).contains("since 1970"));
    }

    #[test]
    fn only_our_own_closed_pipe_is_marked() {
        let marked = mark(io::ErrorKind::BrokenPipe.into());
        assert!(marked.get_ref().is_some_and(|inner| inner.is::<ReaderGone>()));
        assert!(mark(io::ErrorKind::Other.into()).get_ref().is_none());
    }
}

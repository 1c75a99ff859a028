//! Prompts that change from step to step: the grammar at the head of AUTOMATIC1111's `modules/prompt_parser.py`.
//!
//! | written | read |
//! | --- | --- |
//! | `[from:to:when]` | `from` up to step `when`, `to` after it |
//! | `[to:when]`, `[from::when]` | nothing before; nothing after |
//! | `[a\|b\|c]` | `a` at step 1, `b` at step 2, … and round again; any may be empty |
//!
//! `when` with a decimal point is a share of the steps, rounded down; without one it is a step. Parts may hold other such groups and
//! weights. What does not fit is text: a bracket that does not balance, and with it the brackets around it.
//!
//! Differences. Where brackets do not balance, the original's grammar has several readings and its parser takes any of them; where they do,
//! both agree. The original reads a prompt with a `|` outside a group without any schedule; here such a `|` is text, as its own list of
//! examples has it. And the original's sampler looks the schedule up with steps counted from 0, which puts every change one step later than
//! its table; here the table holds.

use std::ops::Range;

/// A prompt whose text depends on the step.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    /// Groups that choose, in the order of their opening brackets.
    groups: Vec<Group>,
}

#[derive(Debug, Clone)]
struct Group {
    /// The whole group with its brackets, in bytes.
    whole: Range<usize>,
    choice: Choice,
}

#[derive(Debug, Clone)]
enum Choice {
    Switch { from: Range<usize>, to: Range<usize>, last: usize },
    Alternate(Vec<Range<usize>>),
}

/// A bracket that is not closed yet.
struct Frame {
    opening: u8,
    at: usize,
    colons: Vec<usize>,
    pipes: Vec<usize>,
}

impl Schedule {
    /// A text that is the same at every step.
    pub fn constant(text: &str) -> Self {
        Schedule { text: text.to_owned(), groups: Vec::new() }
    }

    /// Reads a prompt for a run of `steps` steps.
    pub fn parse(text: &str, steps: usize) -> Self {
        let mut groups = Vec::new();
        let mut open: Vec<Frame> = Vec::new();
        let mut escaped = false;
        // All marks are ASCII, so bytes will do.
        for (at, byte) in text.bytes().enumerate() {
            if std::mem::take(&mut escaped) {
                continue;
            }
            match byte {
                b'\\' => escaped = true,
                b'(' | b'[' => open.push(Frame { opening: byte, at, colons: Vec::new(), pipes: Vec::new() }),
                b':' => open.iter_mut().next_back().into_iter().for_each(|frame| frame.colons.push(at)),
                b'|' => open.iter_mut().next_back().into_iter().for_each(|frame| frame.pipes.push(at)),
                b')' | b']' => match open.pop().map(|frame| frame.close(byte, at, text, steps)) {
                    Some(Ok(group)) => groups.extend(group),
                    // What does not fit is text, and so is whatever holds it.
                    Some(Err(())) | None => open.clear(),
                },
                _ => {}
            }
        }
        groups.sort_by_key(|group: &Group| group.whole.start);
        Schedule { text: text.to_owned(), groups }
    }

    /// The text of a step, the first of which is 1.
    pub fn at(&self, step: usize) -> String {
        let mut out = String::new();
        // What is still to be read, the next at the end.
        let mut todo = Vec::new();
        todo.push(0..self.text.len());
        while let Some(range) = todo.pop() {
            let next = self.groups.partition_point(|group| group.whole.start < range.start);
            match self.groups.get(next).filter(|group| group.whole.start < range.end) {
                Some(group) => {
                    out += &self.text[range.start..group.whole.start];
                    todo.push(group.whole.end..range.end);
                    todo.push(group.choice.at(step));
                }
                None => out += &self.text[range],
            }
        }
        out
    }

    /// Whether any step may differ from another.
    pub fn changes(&self) -> bool {
        !self.groups.is_empty()
    }
}

impl Choice {
    fn at(&self, step: usize) -> Range<usize> {
        match self {
            Choice::Switch { from, to, last } => if step <= *last { from } else { to }.clone(),
            Choice::Alternate(parts) => parts[step.saturating_sub(1) % parts.len()].clone(),
        }
    }
}

impl Frame {
    /// What the brackets mean: a choice, or nothing here; `Err` if they do not fit.
    fn close(self, closing: u8, at: usize, text: &str, steps: usize) -> Result<Option<Group>, ()> {
        let whole = self.at..at + 1;
        match (self.opening, closing, self.colons.as_slice(), self.pipes.len()) {
            (b'(', b')', [] | [_], _) | (b'[', b']', [], 0) => Ok(None),
            (b'[', b']', [], _) => {
                let starts = std::iter::once(self.at).chain(self.pipes.iter().copied());
                let ends = self.pipes.iter().copied().chain([at]);
                let parts = starts.zip(ends).map(|(start, end)| start + 1..end).collect();
                Ok(Some(Group { whole, choice: Choice::Alternate(parts) }))
            }
            (b'[', b']', [.., last_colon], _) if self.colons.len() <= 2 => {
                let last = last_step(text[last_colon + 1..at].trim(), steps).ok_or(())?;
                let middle = if self.colons.len() == 2 { self.colons[0] } else { self.at };
                let choice =
                    Choice::Switch { from: self.at + 1..middle.max(self.at + 1), to: middle + 1..*last_colon, last };
                Ok(Some(Group { whole, choice }))
            }
            _ => Err(()),
        }
    }
}

/// The last step of the first part; 0 if it never is.
fn last_step(number: &str, steps: usize) -> Option<usize> {
    let unsigned = number.strip_prefix(['+', '-']).unwrap_or(number);
    // Not the words that Rust takes for numbers.
    if !unsigned.starts_with(|c: char| c == '.' || c.is_ascii_digit()) {
        return None;
    }
    let value: f64 = number.parse().ok()?;
    let step = if number.contains('.') { value * steps as f64 } else { value };
    Some(step.clamp(0.0, steps as f64) as usize)
}

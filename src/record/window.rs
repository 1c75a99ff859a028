//! Which rows of a map a 3×3 convolution step reads and makes, and how its bands cover the whole.
//!
//! All bands of a step have the same number of rows, so that one compiled program serves them all. A band that begins or ends
//! inside the map sees zeros where its neighbours' rows are, so its outermost results are wrong and are not kept; at the
//! map's own edges the convolution's zeros are the true padding. The last band is moved up to end with the map.

use std::ops::Range;

/// How the rows of a convolution's result lie over those of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Stride 1, padding 1: row y sees y - 1 … y + 1.
    Same,
    /// The input is enlarged twice by repeating rows, then as [`Same`](Self::Same).
    Doubled,
    /// Stride 2, padded below only: row y sees 2 y … 2 y + 2.
    Halved,
}

/// One position of a band.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Its first input row.
    pub start: usize,
    /// The rows of the whole result that are right and that no earlier window gave.
    pub keep: Range<usize>,
    /// The same rows, counted in the band's own result.
    pub of_band: Range<usize>,
}

impl Reach {
    /// Rows of the result of `rows` input rows.
    pub fn out_rows(self, rows: usize) -> usize {
        match self {
            Reach::Same => rows,
            Reach::Doubled => 2 * rows,
            Reach::Halved => rows / 2,
        }
    }

    /// Input rows that row `out` of the result sees, of `height` that there are.
    fn seen(self, out: usize, height: usize) -> Range<usize> {
        let (first, end) = match self {
            Reach::Same => (out.saturating_sub(1), out + 2),
            Reach::Doubled => (out.saturating_sub(1) / 2, out.div_ceil(2) + 1),
            Reach::Halved => (2 * out, 2 * out + 3),
        };
        first..end.min(height)
    }

    /// Rows between positions at which a band's result lies on the whole's.
    fn step(self) -> usize {
        if self == Reach::Halved { 2 } else { 1 }
    }

    /// The nearest number of rows, not above `rows` but for the least, that bands of a map of `height` rows can have.
    pub fn band_rows(self, rows: usize, height: usize) -> usize {
        // Two rows of halo and something between them; stride 2 wants three rows for a result, and the halo.
        let rows = rows.max(4);
        let odd = !height.abs_diff(rows).is_multiple_of(self.step());
        match (odd, rows) {
            _ if rows >= height => height,
            (true, 4) => 5.min(height),
            (true, _) => rows - 1,
            (false, _) => rows,
        }
    }

    /// The windows of bands of `rows` rows (a number that [`band_rows`](Self::band_rows) gives), which cover every row of the
    /// result once.
    pub fn windows(self, rows: usize, height: usize) -> Vec<Window> {
        let all = self.out_rows(height);
        let mut windows = Vec::new();
        let mut done = 0;
        while done < all {
            let start = (self.seen(done, height).start / self.step() * self.step()).min(height - rows);
            let first_out = self.out_rows(start);
            let mut end = first_out + self.out_rows(rows);
            while self.seen(end - 1, height).end > start + rows {
                end -= 1;
            }
            assert!(end > done, "a band of {rows} rows goes on");
            windows.push(Window { start, keep: done..end, of_band: done - first_out..end - first_out });
            done = end;
        }
        windows
    }

    /// The fewest rows with which bands are as many as with `rows`: less memory, and less done twice by the last band.
    pub fn balanced(self, rows: usize, height: usize) -> usize {
        let count = self.windows(rows, height).len();
        let (mut low, mut high) = (self.band_rows(1, height), rows);
        while low < high {
            let middle = self.band_rows((low + high) / 2, height);
            match self.windows(middle, height).len() {
                n if n > count => low = middle + self.step(),
                _ => high = middle,
            }
        }
        high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Reach; 3] = [Reach::Same, Reach::Doubled, Reach::Halved];

    /// What a result row is made of, by definition: the rows of the padded, enlarged input under the kernel.
    fn by_definition(reach: Reach, out: usize, height: usize) -> Vec<Option<usize>> {
        let inside = |y: isize, of: usize| usize::try_from(y).ok().filter(|&y| y < of);
        let at = out as isize;
        match reach {
            Reach::Same => (at - 1..=at + 1).map(|y| inside(y, height)).collect(),
            Reach::Doubled => (at - 1..=at + 1).map(|y| inside(y, 2 * height).map(|y| y / 2)).collect(),
            Reach::Halved => (2 * at..=2 * at + 2).map(|y| inside(y, height)).collect(),
        }
    }

    /// Each kept row is made of the same rows, padding at the same places, in its band as in the whole.
    #[test]
    fn bands_see_what_the_whole_sees() {
        let mut shifted = 0;
        for reach in ALL {
            for height in 2..40 {
                for wanted in 1..=height {
                    let rows = reach.band_rows(wanted, height);
                    let windows = reach.windows(rows, height);
                    let mut next = 0;
                    for w in &windows {
                        assert_eq!(w.keep.start, next, "{reach:?} {height} {rows}");
                        assert!(w.start + rows <= height && w.keep.len() == w.of_band.len());
                        next = w.keep.end;
                        for (whole, own) in w.keep.clone().zip(w.of_band.clone()) {
                            let of_band = by_definition(reach, own, rows);
                            let moved: Vec<_> = of_band.iter().map(|y| y.map(|y| y + w.start)).collect();
                            assert_eq!(moved, by_definition(reach, whole, height), "{reach:?} {height} {rows} {w:?}");
                        }
                    }
                    assert_eq!(next, reach.out_rows(height), "{reach:?} {height} {rows}: every row once");
                    shifted += usize::from(windows.len() > 1 && windows[windows.len() - 1].of_band.start > 2);
                }
            }
        }
        assert!(shifted > 100, "only {shifted} last bands are moved up");
    }

    #[test]
    fn balanced_bands_are_as_many() {
        for reach in ALL {
            for height in 4..60 {
                for wanted in 1..=height {
                    let rows = reach.band_rows(wanted, height);
                    let count = reach.windows(rows, height).len();
                    let balanced = reach.balanced(rows, height);
                    assert!(balanced <= rows);
                    assert_eq!(reach.windows(balanced, height).len(), count, "{reach:?} {height} {rows}: {balanced}");
                    let less = balanced - reach.step().min(balanced);
                    if reach.band_rows(less, height) < balanced {
                        assert!(reach.windows(reach.band_rows(less, height), height).len() > count);
                    }
                }
            }
        }
        assert_eq!(Reach::Same.balanced(128, 130), 66);
    }
}

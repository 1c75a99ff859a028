//! Which tiles were measured to be fastest on a device, by what is computed with them.

use std::collections::BTreeMap;

/// A table from classes of products to names of tiles, both as `ops` writes them. An unknown class, and a tile that the device has not, mean
/// nothing: what is reasoned is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning(BTreeMap<String, String>);

impl Tuning {
    /// The tile for a class.
    pub fn get(&self, class: &str) -> Option<&str> {
        self.0.get(class).map(String::as_str)
    }

    /// Sets the tile for a class.
    pub fn set(&mut self, class: impl Into<String>, tile: impl Into<String>) {
        self.0.insert(class.into(), tile.into());
    }

    /// Classes with a tile.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Classes and tiles, in the order of the classes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(class, tile)| (class.as_str(), tile.as_str()))
    }
}

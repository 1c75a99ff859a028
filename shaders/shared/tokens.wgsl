// Which tokens of an image others may be merged into: one of each cell of 2 x 2, chosen by a hash of the cell and a seed. What is left over at odd
// edges belongs to no cell. `width` is the image's.

// Above every cosine: the similarity of a destination, which stays.
const DESTINATION: f32 = 4.0;
// What the square of a vector's length is at least.
const SMALLEST_SQUARE: f32 = 1e-24;

fn cell_count(height: u32, width: u32) -> u32 {
    return (height / 2u) * (width / 2u);
}

// The cell that a token lies in; one past the last for a token of none.
fn cell_of(token: u32, height: u32, width: u32) -> u32 {
    let row = token / width / 2u;
    let column = token % width / 2u;
    if (row >= height / 2u || column >= width / 2u) {
        return cell_count(height, width);
    }
    return row * (width / 2u) + column;
}

// The token that a cell's others may be merged into (PCG, output function RXS M XS; Jarzynski and Olano 2020).
fn destination_of(cell: u32, width: u32, seed: u32) -> u32 {
    let state = (cell ^ (seed * 0x9e3779b9u)) * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    let place = (word >> 22u) ^ word;
    let row = cell / (width / 2u) * 2u + (place & 1u);
    let column = cell % (width / 2u) * 2u + ((place >> 1u) & 1u);
    return row * width + column;
}

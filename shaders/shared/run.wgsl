// How shared/tile.wgsl, shared/coop.wgsl and shared/direct.wgsl ask for x: k is cut into runs() of run_quads() each, in which the values of a row lie one after
// the other; locate_run(locate_row(row), run) is where.

// Quad `first` of x and the following ones; zeros if not inside, where `first` can be read all the same.
struct Run {
    first: u32,
    inside: bool,
}

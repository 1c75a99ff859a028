// The best destination of each token of an image, to be merged into (shared/tokens.wgsl says which tokens are destinations).
//
//   out[image, t] = (max_c cos(x[image, t], x[image, destination(c)]), the c that has it, 0, 0)
//   out[image, destination(c)] = (DESTINATION, c, 0, 0)
//
// The lowest c of equal ones. One workgroup of 8 x 8 invocations owns 32 tokens of an image (x: tokens, y: image) and visits the
// cells 32 at a time; an invocation multiplies four tokens with four destinations, four quads at a time through workgroup memory.
// Preconditions: x has no gaps; channels = 4 * quads; there is a cell.

//#include "shared/tokens.wgsl"

struct Params {
    height: u32,
    width: u32,
    quads: u32,
    seed: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;                // [images, height, width, quads]
@group(0) @binding(2) var<storage, read_write> out: array<out4>;      // [images, height * width]

const SIDE: u32 = 8u;
const OWN: u32 = 4u;
const BLOCK: u32 = SIDE * OWN;
const DEPTH: u32 = 4u;
const PITCH: u32 = DEPTH + 1u;
const INVOCATIONS: u32 = SIDE * SIDE;

var<workgroup> token_tile: array<vec4<f32>, BLOCK * PITCH>;
var<workgroup> cell_tile: array<vec4<f32>, BLOCK * PITCH>;
// [token, across]
var<workgroup> best: array<vec2<f32>, BLOCK * SIDE>;

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let across = local % SIDE;
    let down = local / SIDE;
    let tokens = params.height * params.width;
    let cells = cell_count(params.height, params.width);
    let first_token = workgroup.x * BLOCK;
    let first_quad_of_image = workgroup.y * tokens * params.quads;

    var similarity: array<f32, OWN>;
    var cell: array<u32, OWN>;
    var token_square: array<f32, OWN>;
    for (var i = 0u; i < OWN; i++) {
        similarity[i] = -DESTINATION;
    }
    for (var first_cell = 0u; first_cell < cells; first_cell += BLOCK) {
        var products: array<vec4<f32>, OWN>;
        var cell_square = vec4<f32>();
        for (var i = 0u; i < OWN; i++) {
            token_square[i] = 0.0;
        }
        for (var first_quad = 0u; first_quad < params.quads; first_quad += DEPTH) {
            workgroupBarrier();
            for (var i = local; i < BLOCK * DEPTH; i += INVOCATIONS) {
                let row = i / DEPTH;
                let quad = first_quad + i % DEPTH;
                var token_value = vec4<f32>();
                var cell_value = vec4<f32>();
                if (quad < params.quads) {
                    let token = min(first_token + row, tokens - 1u);
                    token_value = vec4<f32>(x[first_quad_of_image + token * params.quads + quad]);
                    let own = min(first_cell + row, cells - 1u);
                    let destination = destination_of(own, params.width, params.seed);
                    cell_value = vec4<f32>(x[first_quad_of_image + destination * params.quads + quad]);
                }
                token_tile[row * PITCH + i % DEPTH] = token_value;
                cell_tile[row * PITCH + i % DEPTH] = cell_value;
            }
            workgroupBarrier();
            for (var k = 0u; k < DEPTH; k++) {
                let cell_0 = cell_tile[across * PITCH + k];
                let cell_1 = cell_tile[(SIDE + across) * PITCH + k];
                let cell_2 = cell_tile[(2u * SIDE + across) * PITCH + k];
                let cell_3 = cell_tile[(3u * SIDE + across) * PITCH + k];
                cell_square += vec4<f32>(dot(cell_0, cell_0), dot(cell_1, cell_1), dot(cell_2, cell_2), dot(cell_3, cell_3));
                for (var i = 0u; i < OWN; i++) {
                    let token = token_tile[(i * SIDE + down) * PITCH + k];
                    products[i] += vec4<f32>(dot(token, cell_0), dot(token, cell_1), dot(token, cell_2), dot(token, cell_3));
                    token_square[i] += dot(token, token);
                }
            }
        }
        let cell_scale = inverseSqrt(max(cell_square, vec4<f32>(SMALLEST_SQUARE)));
        for (var j = 0u; j < OWN; j++) {
            let own = first_cell + j * SIDE + across;
            for (var i = 0u; i < OWN; i++) {
                let found = products[i][j] * cell_scale[j] * inverseSqrt(max(token_square[i], SMALLEST_SQUARE));
                if (own < cells && found > similarity[i]) {
                    similarity[i] = found;
                    cell[i] = own;
                }
            }
        }
    }
    for (var i = 0u; i < OWN; i++) {
        best[(i * SIDE + down) * SIDE + across] = vec2<f32>(similarity[i], f32(cell[i]));
    }
    workgroupBarrier();
    let token = first_token + local;
    if (local >= BLOCK || token >= tokens) {
        return;
    }
    var found = best[local * SIDE];
    for (var i = 1u; i < SIDE; i++) {
        let other = best[local * SIDE + i];
        if (other.x > found.x || (other.x == found.x && other.y < found.y)) {
            found = other;
        }
    }
    let own = cell_of(token, params.height, params.width);
    if (own < cells && destination_of(own, params.width, params.seed) == token) {
        found = vec2<f32>(DESTINATION, f32(own));
    }
    out[workgroup.y * tokens + token] = out4(vec4<f32>(found, 0.0, 0.0));
}

// Kernels that treat each vector of four values alone: 256 invocations per workgroup, workgroups spread over x and y
// (ops::fold_grid).

const WORKGROUP: u32 = 256u;

fn flat_index(workgroup: vec3<u32>, workgroups: vec3<u32>, local: u32) -> u32 {
    return (workgroup.y * workgroups.x + workgroup.x) * WORKGROUP + local;
}

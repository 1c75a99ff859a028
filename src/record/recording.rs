//! A forward pass as plain data.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::{Caps, Constant, DType, Kernel, Layout, Shape, Tensor, Variant, kept_bytes};

/// What a tensor is for.
#[derive(Debug, Clone)]
pub enum Role {
    /// Written by the caller before each run, under this name.
    Input(String),
    /// Written by a dispatch.
    Intermediate,
    /// Uploaded once, or in every run where [`Recording::memory_limit`] asks for it.
    Constant(Arc<Constant>),
}

/// One storage of a recording.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Elements.
    pub len: usize,
    /// Element type on the device. The host executor keeps f32 whatever this says.
    pub dtype: DType,
    /// What it is for.
    pub role: Role,
    /// Order of a constant's values on the device.
    pub layout: Layout,
}

impl TensorInfo {
    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.dtype.bytes(self.len)
    }
}

/// One kernel launch.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// Which kernel.
    pub kernel: &'static Kernel,
    /// Which form of it.
    pub variant: Variant,
    /// The kernel's `Params` struct as bytes; its size is a multiple of 16.
    pub params: Vec<u8>,
    /// Tensors read, by the name of the binding in WGSL.
    pub reads: Vec<(&'static str, Tensor)>,
    /// The tensor written: binding `out` in WGSL. Never a storage that the dispatch also reads.
    pub write: Tensor,
    /// Workgroups.
    pub grid: [u32; 3],
    /// Where in the network: the checkpoint's module path.
    pub label: String,
    /// Floating-point operations (a fused multiply-add is two).
    pub flops: u64,
    /// Which layer it is a part of ([`Recording::layer`]); `None` for what only moves or joins results of layers.
    pub layer: Option<u32>,
}

/// A named result. Its elements are read back channels last, `[n, h, w, c]`.
#[derive(Debug, Clone)]
pub struct Output {
    /// The name to read it by.
    pub name: String,
    /// The tensor.
    pub tensor: Tensor,
}

/// The dispatches, tensors and outputs of one forward pass at fixed shapes.
pub struct Recording {
    /// What the recording is made for.
    pub caps: Caps,
    /// All storages; a [`Tensor`] names one by index.
    pub tensors: Vec<TensorInfo>,
    /// Kernel launches in order.
    pub dispatches: Vec<Dispatch>,
    /// How many of them, from the first on, a run leaves out when the inputs that they read are those of the run before ([`once`](Self::once)).
    pub prologue: usize,
    /// The dispatches that a run on kept features leaves out ([`begin_deep`](Self::begin_deep)); empty where there are none.
    pub deep: Range<usize>,
    /// Results in the order they were named.
    pub outputs: Vec<Output>,
    /// Bytes that the executor of a GPU may allocate: constants that do not fit then pass through the device in every run. `None` keeps all of them
    /// there, whatever that takes.
    pub memory_limit: Option<u64>,
    constants: HashMap<usize, Tensor>,
    scope: Vec<String>,
    keep_taps: bool,
    /// Element type of new tensors.
    storage: DType,
    /// Whether new dispatches belong to the prologue.
    in_prologue: bool,
    /// Storages that the prologue writes.
    kept: HashSet<u32>,
    /// The layer that new dispatches belong to, and how many there were.
    layer: Option<u32>,
    layers: u32,
}

impl Recording {
    /// An empty recording for a device.
    pub fn new(caps: &Caps) -> Self {
        Recording {
            caps: caps.clone(),
            tensors: Vec::new(),
            dispatches: Vec::new(),
            prologue: 0,
            deep: 0..0,
            outputs: Vec::new(),
            memory_limit: None,
            constants: HashMap::new(),
            scope: Vec::new(),
            keep_taps: false,
            storage: caps.storage,
            in_prologue: false,
            kept: HashSet::new(),
            layer: None,
            layers: 0,
        }
    }

    /// Also return every [`tap`](Self::tap) as an output, named by its module path. Costs memory; for tests and bisection.
    pub fn with_taps(mut self) -> Self {
        self.keep_taps = true;
        self
    }

    /// A tensor that the caller writes before each run.
    pub fn input(&mut self, name: impl Into<String>, shape: Shape) -> Tensor {
        let dtype = self.fitting(shape, self.storage);
        self.add(shape, dtype, Role::Input(name.into()))
    }

    /// A tensor that the next dispatches write, kept in [`Caps::storage`] or, under [`in_f32`](Self::in_f32), in f32.
    pub fn tensor(&mut self, shape: Shape) -> Tensor {
        let dtype = self.fitting(shape, self.storage);
        self.add(shape, dtype, Role::Intermediate)
    }

    /// As [`tensor`](Self::tensor), but in f32 where one of `terms` is: a sum or a copy of them loses nothing.
    pub fn tensor_for(&mut self, shape: Shape, terms: &[Tensor]) -> Tensor {
        match terms.iter().any(|&term| self.dtype(term) == DType::F32) {
            true => self.in_f32(|rec| rec.tensor(shape)),
            false => self.tensor(shape),
        }
    }

    /// Runs `body`, in which new inputs and tensors are f32 whatever [`Caps::storage`] says; `nn` says where and why. One
    /// that would not fit the device's bindings so keeps the storage type.
    pub fn in_f32<T>(&mut self, body: impl FnOnce(&mut Self) -> T) -> T {
        self.in_type(DType::F32, body)
    }

    /// Runs `body`, in which new inputs and tensors have the type of `tensor`.
    pub fn in_type_of<T>(&mut self, tensor: Tensor, body: impl FnOnce(&mut Self) -> T) -> T {
        self.in_type(self.dtype(tensor), body)
    }

    /// Runs `body`, in which new inputs and tensors have this type.
    pub fn in_type<T>(&mut self, dtype: DType, body: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.storage, dtype);
        let result = body(self);
        self.storage = outer;
        result
    }

    /// `dtype`, or the storage type where only that fits into one binding.
    fn fitting(&self, shape: Shape, dtype: DType) -> DType {
        let bytes = dtype.bytes(shape.len()) as u64;
        let fits = bytes <= self.caps.max_binding_bytes.min(self.caps.max_buffer_bytes);
        if fits { dtype } else { self.caps.storage }
    }

    /// An f32 tensor between two kernels (statistics), whatever the storage type.
    pub fn scratch(&mut self, shape: Shape) -> Tensor {
        self.add(shape, DType::F32, Role::Intermediate)
    }

    /// A constant; the same `Arc` gives the same tensor.
    pub fn constant(&mut self, constant: &Arc<Constant>) -> Tensor {
        let key = Arc::as_ptr(constant) as usize;
        if let Some(&tensor) = self.constants.get(&key) {
            return tensor;
        }
        let columns = *constant.shape.last().unwrap_or(&1);
        let rows = constant.len() / columns.max(1);
        let tensor = self.add(Shape::image(1, 1, rows, columns), constant.dtype, Role::Constant(Arc::clone(constant)));
        self.constants.insert(key, tensor);
        tensor
    }

    /// Asks for a constant's values in this order. All kernels that read it agree on one: the device's capabilities decide.
    pub(crate) fn lay_out(&mut self, constant: Tensor, layout: Layout) {
        self.tensors[constant.storage as usize].layout = layout;
    }

    fn add(&mut self, shape: Shape, dtype: DType, role: Role) -> Tensor {
        let storage = u32::try_from(self.tensors.len()).expect("a recording has fewer than 2^32 tensors");
        self.tensors.push(TensorInfo { len: shape.len(), dtype, role, layout: Layout::Rows });
        Tensor { storage, shape, row_stride: shape.c, channel_offset: 0 }
    }

    /// Appends a dispatch; its label is the current module path followed by the kernel's stem. The element types of its
    /// activations become part of the variant.
    #[allow(clippy::too_many_arguments, reason = "each argument is one field of Dispatch; a struct would repeat it")]
    pub fn dispatch<P: bytemuck::Pod>(
        &mut self,
        kernel: &'static Kernel,
        mut variant: Variant,
        params: &P,
        reads: &[(&'static str, Tensor)],
        write: Tensor,
        grid: [u32; 3],
        flops: u64,
    ) {
        debug_assert!(size_of::<P>().is_multiple_of(16), "{}: Params is a multiple of 16 bytes", kernel.stem);
        debug_assert!(
            reads.iter().all(|(_, r)| r.storage != write.storage),
            "{}: a dispatch never writes a storage that it reads",
            kernel.stem
        );
        let is_activation = |tensor: Tensor| !matches!(self.tensors[tensor.storage()].role, Role::Constant(_));
        let activations = reads.iter().copied().chain([("out", write)]).filter(|&(_, tensor)| is_activation(tensor));
        variant.types = activations.map(|(name, tensor)| (name, self.dtype(tensor))).collect();
        let dispatch = Dispatch {
            kernel,
            variant,
            params: bytemuck::bytes_of(params).to_vec(),
            reads: reads.to_vec(),
            write,
            grid,
            label: self.path(kernel.stem),
            flops,
            layer: self.layer,
        };
        if !self.in_prologue {
            return self.dispatches.push(dispatch);
        }
        let early = dispatch.reads.iter().all(|&(_, tensor)| self.is_known_early(tensor));
        assert!(early, "{}: the prologue reads what a later dispatch writes", dispatch.label);
        self.kept.insert(dispatch.write.storage);
        self.dispatches.insert(self.prologue, dispatch);
        self.prologue += 1;
        // Marks set before stand where they stood; without any, the range stays empty.
        if self.deep != (0..0) {
            self.deep = self.deep.start + 1..self.deep.end + 1;
        }
    }

    /// Runs `body`, whose dispatches depend on `reads` (and constants) alone, and makes them part of the prologue: what does not change
    /// from step to step is computed in the first run and in each whose inputs differ, and its results stay in memory. Where one of
    /// `reads` is the result of a dispatch outside of the prologue, `body` is recorded as anything else.
    pub fn once<T>(&mut self, reads: &[Tensor], body: impl FnOnce(&mut Self) -> T) -> T {
        let early = reads.iter().all(|&tensor| self.is_known_early(tensor));
        let outer = std::mem::replace(&mut self.in_prologue, early);
        let result = body(self);
        self.in_prologue = outer;
        result
    }

    /// The next dispatches are left out by runs on kept features ([`Program::run_reusing`](super::Program::run_reusing)), up to
    /// [`end_deep`](Self::end_deep). What they write and later ones read stays in memory from run to run.
    pub fn begin_deep(&mut self) {
        self.deep = self.dispatches.len()..self.dispatches.len();
    }

    /// Ends what [`begin_deep`](Self::begin_deep) began.
    pub fn end_deep(&mut self) {
        self.deep.end = self.dispatches.len();
    }

    pub(super) fn is_input(&self, storage: u32) -> bool {
        matches!(self.tensors[storage as usize].role, Role::Input(_))
    }

    fn is_known_early(&self, tensor: Tensor) -> bool {
        !matches!(self.tensors[tensor.storage()].role, Role::Intermediate) || self.kept.contains(&tensor.storage)
    }

    /// Runs `body`, whose dispatches are one layer: what they read from outside and what others read of theirs is the least that the
    /// layer moves ([`traffic`](Self::traffic)). Inside of another layer, they are that one's.
    pub fn layer<T>(&mut self, body: impl FnOnce(&mut Self) -> T) -> T {
        if self.layer.is_some() {
            return body(self);
        }
        self.layer = Some(self.layers);
        self.layers += 1;
        let result = body(self);
        self.layer = None;
        result
    }

    /// Runs `body` with `name` appended to the module path, as the checkpoint names its modules.
    pub fn scoped<T>(&mut self, name: impl Into<String>, body: impl FnOnce(&mut Self) -> T) -> T {
        self.scope.push(name.into());
        let result = body(self);
        self.scope.pop();
        result
    }

    /// The current module path, with `leaf` appended.
    fn path(&self, leaf: &str) -> String {
        let mut path = self.scope.join(".");
        if !path.is_empty() && !leaf.is_empty() {
            path.push('.');
        }
        path + leaf
    }

    /// Marks a module's result under the current module path, so that a test can compare it with a reference.
    pub fn tap(&mut self, tensor: Tensor) -> Tensor {
        self.tap_as("", tensor)
    }

    /// Like [`tap`](Self::tap), under a name inside the current module.
    pub fn tap_as(&mut self, leaf: &str, tensor: Tensor) -> Tensor {
        if self.keep_taps {
            let name = self.path(leaf);
            self.outputs.push(Output { name, tensor });
        }
        tensor
    }

    /// Names a result that is read back after each run.
    pub fn output(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.outputs.push(Output { name: name.into(), tensor });
    }

    /// Names of the inputs, and how many values each has.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, usize)> {
        self.tensors.iter().filter_map(|tensor| match &tensor.role {
            Role::Input(name) => Some((name.as_str(), tensor.len)),
            _ => None,
        })
    }

    /// The element type of a tensor's storage.
    pub fn dtype(&self, tensor: Tensor) -> DType {
        self.tensors[tensor.storage as usize].dtype
    }

    /// Bytes of its constants on the device by element type, most first.
    pub fn constant_bytes(&self) -> Vec<(DType, u64)> {
        let mut found: Vec<(DType, u64)> = Vec::new();
        let constants = self.tensors.iter().enumerate().filter(|(_, tensor)| matches!(tensor.role, Role::Constant(_)));
        for (index, tensor) in constants {
            let bytes = kept_bytes(self, index) as u64;
            match found.iter_mut().find(|(dtype, _)| *dtype == tensor.dtype) {
                Some((_, sum)) => *sum += bytes,
                None => found.push((tensor.dtype, bytes)),
            }
        }
        found.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        found
    }

    /// Floating-point operations of one run, its prologue included.
    pub fn flops(&self) -> u64 {
        self.dispatches.iter().map(|d| d.flops).sum()
    }
}

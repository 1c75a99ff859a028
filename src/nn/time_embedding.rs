//! The two-layer perceptron behind time and size embeddings, and what residual blocks make of its result.

use super::Linear;
use crate::Result;
use crate::ops::{Activation, Epilogue};
use crate::record::{Recording, Tensor};
use crate::weights::Weights;

/// `linear_2(silu(linear_1(x + cond_proj(cond))))`.
pub struct TimestepEmbedding {
    cond_proj: Option<Linear>,
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    /// `linear_1 [out, in]`, `linear_2 [out, out]`, and `cond_proj [in, cond]` without bias where `cond` is given (the
    /// guidance embedding of distilled consistency models).
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn load(w: &Weights, inner: usize, out: usize, cond: Option<usize>) -> Result<Self> {
        Ok(TimestepEmbedding {
            cond_proj: cond.map(|cond| Linear::load_without_bias(&w.at("cond_proj"), cond, inner)).transpose()?,
            linear_1: Linear::load(&w.at("linear_1"), inner, out)?,
            linear_2: Linear::load(&w.at("linear_2"), out, out)?,
        })
    }

    /// `x` is `[n, 1, 1, in]`, `cond` `[n, 1, 1, cond]`; `residual` `[n, 1, 1, out]` is added to the
    /// result.
    ///
    /// # Errors
    /// As [`crate::ops::matmul`].
    pub fn forward(
        &self,
        rec: &mut Recording,
        x: Tensor,
        cond: Option<Tensor>,
        residual: Option<Tensor>,
    ) -> Result<Tensor> {
        let x = match (&self.cond_proj, cond) {
            (Some(proj), Some(cond)) => {
                let epilogue = Epilogue { residual: Some(x), ..Epilogue::default() };
                rec.scoped("cond_proj", |rec| proj.forward(rec, cond, epilogue))?
            }
            _ => x,
        };
        let silu = Epilogue { activation: Activation::Silu, ..Epilogue::default() };
        let hidden = rec.scoped("linear_1", |rec| self.linear_1.forward(rec, x, silu))?;
        let epilogue = Epilogue { residual, ..Epilogue::default() };
        rec.scoped("linear_2", |rec| self.linear_2.forward(rec, hidden, epilogue))
    }
}

/// Values of a [`TimeProjections`] weight, at most: 16 MiB in f16, so that it passes through a small device as other weights do.
const STACKED: usize = 8 << 20;

/// The residual blocks of a network that take a projection of the time embedding, as they are loaded.
#[derive(Debug, Default)]
pub struct TimeBlocks(Vec<(String, usize)>);

impl TimeBlocks {
    /// Notes the block at `w`, which has `time_emb_proj [out, in]`; gives the block's number.
    pub fn add(&mut self, w: &Weights, out: usize) -> usize {
        self.0.push((w.full_name("time_emb_proj"), out));
        self.0.len() - 1
    }
}

/// `time_emb_proj` of all residual blocks of a network, as few products.
pub struct TimeProjections {
    products: Vec<Linear>,
    /// Of each block: which product, its first channel in it, its channels.
    blocks: Vec<(usize, usize, usize)>,
}

/// What [`TimeProjections`] made, for each block.
#[derive(Debug, Clone)]
pub struct BlockTimes(Vec<Tensor>);

impl TimeProjections {
    /// The projections of an embedding of `inner` values for these blocks; products of at most 8 Mi weights, one block at least.
    ///
    /// # Errors
    /// As [`Weights::stacked_matrix`].
    pub fn load(w: &Weights, blocks: &TimeBlocks, inner: usize) -> Result<Self> {
        let (root, rows) = (w.root(), STACKED / inner.max(1));
        let mut stacks: Vec<Vec<(String, usize)>> = Vec::new();
        let (mut places, mut used) = (Vec::new(), 0);
        for (name, out) in &blocks.0 {
            if stacks.is_empty() || used + out > rows {
                stacks.push(Vec::new());
                used = 0;
            }
            let product = stacks.len() - 1;
            places.push((product, used, *out));
            stacks[product].push((name.clone(), *out));
            used += out;
        }
        let products = stacks.iter().map(|stack| Linear::load_stacked(&root, stack, inner)).collect::<Result<_>>()?;
        Ok(TimeProjections { products, blocks: places })
    }

    /// `silu_emb` is SiLU of the time embedding, `[n, 1, 1, in]`.
    ///
    /// # Errors
    /// As [`crate::ops::matmul`].
    pub fn forward(&self, rec: &mut Recording, silu_emb: Tensor) -> Result<BlockTimes> {
        let one = |product: &Linear| product.forward(rec, silu_emb, Epilogue::default());
        let made: Vec<Tensor> = self.products.iter().map(one).collect::<Result<_>>()?;
        Ok(BlockTimes(self.blocks.iter().map(|&(product, first, len)| made[product].channels(first, len)).collect()))
    }
}

impl BlockTimes {
    /// `[n, 1, 1, out]`, what is added to all pixels in block number `block`.
    pub fn of(&self, block: usize) -> Tensor {
        self.0[block]
    }
}

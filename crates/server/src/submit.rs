//! A job → the queue.

use std::sync::Arc;

use axum::http::StatusCode;
use chiaro::Request;
use chiaro::order::{Job, Order};
use serde_json::{Value, json};

use crate::journal::Accepted;
use crate::live::Live;
use crate::queue::disk;
use crate::refusal::{Answer, Refusal, without_paths};
use crate::shared::Shared;
use crate::store::{new_id, now_ms, random, sha256};

/// Pictures of one job.
pub(crate) const MOST_PICTURES: usize = 64;
/// Characters of a prompt that the queue shows.
const SHOWN: usize = 400;

/// A job, and who wants it how.
pub(crate) struct Asked {
    pub(crate) job: Job,
    pub(crate) client: String,
    /// Which interface.
    pub(crate) front: &'static str,
    /// What repeats of the same request have in common.
    pub(crate) key: Option<String>,
    /// Whether somebody waits on the connection.
    pub(crate) synchronous: bool,
    /// Steps between previews; 0 without.
    pub(crate) preview_every: usize,
    /// What the client calls it.
    pub(crate) task: Option<String>,
}

impl Asked {
    pub(crate) fn new(job: Job, client: &str, front: &'static str) -> Self {
        Asked { job, client: client.into(), front, key: None, synchronous: false, preview_every: 0, task: None }
    }
}

/// What a job takes.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) peak_bytes: u64,
    pub(crate) flops: u64,
    /// As long as jobs before it took for so much work.
    pub(crate) seconds: Option<f64>,
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// Bytes that it may take, where that is known.
    pub(crate) limit: Option<u64>,
    pub(crate) stages: Vec<Value>,
    pub(crate) warnings: Vec<String>,
    pub(crate) count: usize,
    pub(crate) prompt: String,
    pub(crate) oms: bool,
    kin: String,
}

impl Plan {
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "peak_bytes": self.peak_bytes, "limit_bytes": self.limit, "flops": self.flops, "seconds": self.seconds,
            "width": self.width, "height": self.height, "stages": self.stages,
        })
    }

    /// # Errors
    /// 413 with the numbers.
    fn check(&self) -> Answer<()> {
        let Some(limit) = self.limit.filter(|limit| self.peak_bytes > *limit) else { return Ok(()) };
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let why = format!(
            "the job needs {} MiB of memory, {} MiB may be taken; ask for a smaller size or batch",
            mib(self.peak_bytes),
            mib(limit)
        );
        let mut refusal = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "out_of_memory", why);
        refusal.more.insert("needed_bytes".into(), self.peak_bytes.into());
        refusal.more.insert("available_bytes".into(), limit.into());
        Err(refusal)
    }
}

impl Shared {
    /// What a job takes, without handing it in. Loads its model's headers; no weight is read.
    pub(crate) fn plan(&self, job: &Job, previews: bool) -> Answer<Plan> {
        let order = self.order(job.clone())?;
        let mut request = order.request.clone();
        request.previews = previews;
        if request.count > MOST_PICTURES {
            let why = format!("expected 1 to {MOST_PICTURES}, got {}; hand in several jobs", request.count);
            return Err(Refusal::field("request.count", why));
        }
        let pipeline = self.load(&order, &mut |_| Ok(()))?;
        let stages = pipeline.plan(&request)?;
        let (width, height) = pipeline.size(&request)?;
        let kin = kin_of(&order, &request, (width, height));
        let flops = stages.iter().map(chiaro::reports::StagePlan::total_flops).sum();
        Ok(Plan {
            peak_bytes: stages.iter().map(chiaro::reports::StagePlan::peak_bytes).max().unwrap_or(0),
            flops,
            seconds: self.meter.seconds(flops),
            width,
            height,
            limit: self.settings.memory_bytes,
            stages: stages.iter().map(chiaro::reports::StagePlan::to_json).collect(),
            warnings: order.notes.iter().chain(&order.not_repeated).map(|note| without_paths(note)).collect(),
            count: request.count,
            oms: request.oms.is_some(),
            kin,
            prompt: request.prompt,
        })
    }

    /// Hands a job in: when this returns, it is on disk, and what it takes is known. Not for an asynchronous thread.
    ///
    /// # Errors
    /// What is wrong with the job; 413 where it takes more than there is; 429 and 503 where it cannot wait; 507 where it cannot be kept.
    pub(crate) fn submit(&self, mut asked: Asked) -> Answer<(Arc<Live>, Option<Plan>)> {
        if let Some(known) = asked.key.as_ref().and_then(|key| self.jobs.repeated(&asked.client, key)) {
            return Ok((known, None));
        }
        self.jobs.check_room()?;
        // A job that is drawn again after a restart is the same.
        if !asked.job.request.has("seed") {
            asked.job.request.set("seed", random() as u32)?;
        }
        let named = asked.job.model.name.clone().or_else(|| self.settings.model.clone());
        asked.job.model.name = named.clone();
        let plan = self.plan(&asked.job, asked.preview_every > 0)?;
        plan.check()?;
        let id = new_id();
        self.store.put_job(&id, &asked.job.to_json()).map_err(|error| disk(&error))?;
        let accepted = Accepted {
            id: id.clone(),
            at: now_ms(),
            client: asked.client,
            front: asked.front.into(),
            key: asked.key,
            rank: 0,
            count: plan.count,
            model: named.unwrap_or_else(|| crate::shelf::DEMO.into()),
            prompt: plan.prompt.chars().take(SHOWN).collect(),
            oms: plan.oms,
            kin: plan.kin.clone(),
            flops: plan.flops,
            synchronous: asked.synchronous,
            preview_every: asked.preview_every,
            task: asked.task,
        };
        let accepted = self.jobs.accept(accepted, plan.warnings.clone());
        if !accepted.as_ref().is_ok_and(|live| live.id() == id) {
            let _ = self.store.remove_job(&id);
        }
        Ok((accepted?, Some(plan)))
    }
}

/// What jobs whose steps may share forwards have in common: the UNet and what changes it, the size, and whether rows are guided. Whether they do is the
/// library's to say, step by step; this only keeps apart what never does.
fn kin_of(order: &Order, request: &Request, (width, height): (usize, usize)) -> String {
    let is_alone = !request.controls.is_empty() || request.hires.is_some() || request.deep_cache.is_some();
    if is_alone {
        return String::new();
    }
    let guided = request.guidance_scale != 1.0;
    let merged = request.token_merging;
    let text = format!("{} {:?} {width}x{height} {guided} {merged:?}", order.load.model, order.load.overrides);
    sha256(text.as_bytes())[..16].to_owned()
}

/// Someone who waits for a job on a connection. When the last of them goes away, a job that was handed in so is cancelled.
pub(crate) struct Caller {
    shared: Arc<Shared>,
    live: Arc<Live>,
}

impl Caller {
    pub(crate) fn new(shared: &Arc<Shared>, live: &Arc<Live>) -> Self {
        live.join();
        Caller { shared: Arc::clone(shared), live: Arc::clone(live) }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if self.live.leave() && self.live.accepted.synchronous {
            self.shared.jobs.cancel(self.live.id());
        }
    }
}

/// Hands a job in from an asynchronous thread, for a caller who waits.
pub(crate) async fn submit(shared: &Arc<Shared>, asked: Asked) -> Answer<(Arc<Live>, Option<Plan>)> {
    let own = Arc::clone(shared);
    blocking(move || own.submit(asked)).await
}

/// Work that takes a while, away from the threads that answer.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Answer<T> + Send + 'static) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => {
            eprintln!("chiaro serve: {error}");
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server failed at this request"))
        }
    }
}

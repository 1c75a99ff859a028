//! Chiaro as a local server: what programs that draw with AUTOMATIC1111's or OpenAI's interface ask for, jobs of our own that outlive the process, and
//! a page.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `settings` | what whoever starts it chooses |
//! | `server` | listening, connections and their limits, the end |
//! | `shared` | what every request sees: the engine, the queue, names, the store |
//! | `guard` | who may ask: `Host`, `Origin`, key, kinds of content; what every answer says |
//! | `refusal` | what is wrong with a request, as each interface tells it |
//! | `fields` | JSON of other programs' requests, field by field |
//! | `pictures` | pictures in requests: base64, never an address; masks |
//! | `shelf` | names → files: a listing, made at the start and when asked |
//! | `submit` | a job → the queue: names, validity, what it takes, the journal |
//! | `live`, `queue` | jobs as they stand; whose turn it is |
//! | `journal`, `store` | what outlives the process: a line for what happened, a folder for each job |
//! | `device` | the one thread that draws |
//! | `meter` | numbers for Prometheus |
//! | `a1111`, `openai`, `native` | the interfaces |
//! | `page` | HTML, CSS and JavaScript, inside the program |
//!
//! One ordinary thread owns the device; requests wait for it, and it for nobody. A job is in the journal, on disk, before anyone hears that it is
//! accepted.

mod a1111;
mod device;
mod fields;
mod guard;
mod journal;
mod live;
mod meter;
mod native;
mod openai;
mod page;
mod pictures;
mod queue;
mod refusal;
mod routes;
mod server;
mod settings;
mod shared;
mod shelf;
mod store;
mod submit;

pub use native::openapi;
pub use server::{Server, Stop};
pub use settings::{Key, Settings};

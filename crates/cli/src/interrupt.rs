//! Ctrl-C and its like: what must not outlive the run goes with it.

use chiaro::image::remove_temporary_files;
#[cfg(unix)]
use signal_hook::low_level::emulate_default_handler;

use super::preview;

/// From now on, a signal to end removes previews and temporary files first. The run then ends as without this, told by the signal.
pub(super) fn tidy_up_when_ended() {
    #[cfg(unix)]
    {
        on_signals(|signal| {
            tidy_up();
            let _ = emulate_default_handler(signal);
        });
    }
    #[cfg(windows)]
    {
        /// What a program ends with that does not ask for Ctrl-C: STATUS_CONTROL_C_EXIT.
        const ENDED: u32 = 0xC000_013A;
        // Runs in a thread of its own.
        let _ = ctrlc::set_handler(|| {
            tidy_up();
            std::process::exit(ENDED.cast_signed());
        });
    }
}

/// From now on, a signal to end ends a server in order; a second one ends the program at once.
#[cfg(feature = "serve")]
pub(super) fn end_in_order(stop: &chiaro_server::Stop) {
    let stop = stop.clone();
    #[cfg(unix)]
    {
        let mut was_asked = false;
        on_signals(move |signal| {
            if was_asked {
                let _ = emulate_default_handler(signal);
            }
            was_asked = true;
            stop.stop();
        });
    }
    #[cfg(windows)]
    {
        const ENDED: u32 = 0xC000_013A;
        let was_asked = std::sync::atomic::AtomicBool::new(false);
        // Runs in a thread of its own.
        let _ = ctrlc::set_handler(move || {
            if was_asked.swap(true, std::sync::atomic::Ordering::SeqCst) {
                std::process::exit(ENDED.cast_signed());
            }
            stop.stop();
        });
    }
}

/// Does something at every signal to end, on a thread of its own. What whoever started the program had ignored stays so: nohup, and shells for what runs in
/// the background.
#[cfg(unix)]
fn on_signals(heard: impl FnMut(libc::c_int) + Send + 'static) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    let asked = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal));
    let Ok(mut signals) = signal_hook::iterator::Signals::new(asked) else { return };
    std::thread::spawn(move || signals.forever().for_each(heard));
}

#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is set; what is asked for is written to a place of its type, for which zeros are valid.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

fn tidy_up() {
    preview::remove_all();
    remove_temporary_files();
}

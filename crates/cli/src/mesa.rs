//! Mesa's layer that chooses a device asks Wayland's library where the display is, which prints `error: XDG_RUNTIME_DIR is invalid or not set in
//! the environment.` under ssh, cron and in containers. That looks like a fault of this program, and is none of anybody's.

use std::ffi::OsString;
use std::path::Path;

/// Turns the layer off.
const OFF: &str = "NODEVICE_SELECT";
/// What users say to that layer; then it is wanted.
const WANTED: [&str; 3] = ["MESA_VK_DEVICE_SELECT", "DRI_PRIME", OFF];

/// Turns the layer off where there is no display that it could ask and nobody has told it anything. It would only have put the devices in another
/// order; here they are chosen by what they are. To be called before the process has a second thread.
pub(super) fn hush() {
    if cfg!(target_os = "linux") && is_of_no_use(|name| std::env::var_os(name)) {
        // SAFETY: the caller has no other thread yet that could read the environment.
        unsafe { std::env::set_var(OFF, "1") };
    }
}

fn is_of_no_use(var: impl Fn(&str) -> Option<OsString>) -> bool {
    // The library takes no other path for a folder.
    let has_display = var("XDG_RUNTIME_DIR").is_some_and(|folder| Path::new(&folder).is_absolute());
    !has_display && WANTED.iter().all(|name| var(name).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_stays_where_it_can_do_something() {
        let with = |set: &[(&str, &str)]| {
            let set: Vec<(String, OsString)> = set.iter().map(|(name, value)| ((*name).into(), value.into())).collect();
            is_of_no_use(move |name| set.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone()))
        };
        assert!(with(&[]) && with(&[("XDG_RUNTIME_DIR", "")]) && with(&[("XDG_RUNTIME_DIR", "run/user")]));
        assert!(!with(&[("XDG_RUNTIME_DIR", "/run/user/1000")]));
        assert!(!with(&[("DRI_PRIME", "1")]) && !with(&[("MESA_VK_DEVICE_SELECT", "list")]));
    }
}

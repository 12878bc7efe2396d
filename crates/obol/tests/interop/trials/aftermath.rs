//! What is left when everything else is over.

use anyhow::ensure;

use crate::Case;
use crate::logs::warnings;
use crate::world::World;

pub fn all() -> Vec<Case> {
    vec![Case::new("c_tor_s_own_logs_have_no_warning_that_we_caused", |world| {
        Box::pin(quiet(world))
    })]
}

async fn quiet(world: &World) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for directory in world.c_tors() {
        let log = std::fs::read_to_string(directory.join("log"))?;
        ensure!(log.contains("[notice]"), "{} is no log", directory.display());
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let provoked = world.provoked.lock().unwrap();
        let unprovoked = warnings(&log).into_iter().filter(|line| !provoked.contains(line));
        all.extend(unprovoked.map(|line| format!("{name}: {line}")));
    }
    ensure!(all.is_empty(), "{}", all.join("\n"));
    Ok(())
}

//! Which brokers vote in group 0.

use std::collections::BTreeSet;

use millpond_record::BrokerId;

use crate::image::Image;

/// The brokers that should be voters of group 0: five where five or more can be, three where three can be, else one.
///
/// Who votes stays a voter, dead or alive, until it is decommissioned, unregistered, or comes back with another data
/// directory (then its broker is not in `voters`). A new voter is alive, and is one with a low id.
pub fn metadata_voters(image: &Image, voters: &BTreeSet<BrokerId>, alive: &BTreeSet<BrokerId>) -> BTreeSet<BrokerId> {
    let eligible: Vec<BrokerId> = image.brokers().filter(|broker| !broker.draining).map(|broker| broker.id).collect();
    let staying = || eligible.iter().copied().filter(|broker| voters.contains(broker));
    let new = eligible.iter().copied().filter(|broker| !voters.contains(broker) && alive.contains(broker));
    // Those that are alive are kept first where there are too many.
    let kept = staying().filter(|broker| alive.contains(broker));
    let kept = kept.chain(staying().filter(|broker| !alive.contains(broker)));
    let candidates: Vec<BrokerId> = kept.chain(new).collect();
    let wanted = match candidates.len() {
        5.. => 5,
        3.. => 3,
        // Two would need both of them. But of what two remember neither is forgotten while a third is on its way.
        _ => staying().count().max(1),
    };
    let chosen: BTreeSet<BrokerId> = candidates.into_iter().take(wanted).collect();
    if chosen.is_empty() { voters.clone() } else { chosen }
}

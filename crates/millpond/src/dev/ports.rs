//! Which ports the brokers take.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use millpond_runtime::Runtime;

use super::arguments::DevArguments;

/// From one broker to the next.
const STEP: u16 = 100;

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: u16,
    pub(super) kafka: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) http: SocketAddr,
}

pub(super) async fn places(runtime: &Runtime, arguments: &DevArguments) -> Result<Vec<Place>> {
    match arguments.kafka_port {
        0 => free(runtime, arguments.nodes).await,
        first => in_steps(first, arguments.nodes),
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn in_steps(first: u16, nodes: u16) -> Result<Vec<Place>> {
    let last = first.checked_add(STEP * (nodes - 1)).filter(|last| *last <= u16::MAX - 2);
    let Some(last) = last else {
        bail!("{nodes} brokers from port {first} on need ports above {}; choose a lower --kafka-port", u16::MAX);
    };
    let firsts = (first..=last).step_by(usize::from(STEP));
    let place = |(id, port)| Place { id, kafka: local(port), peer: local(port + 1), http: local(port + 2) };
    Ok((1..).zip(firsts).map(place).collect())
}

/// Ports that are free now. Another program may take one before the broker does, which then says so.
async fn free(runtime: &Runtime, nodes: u16) -> Result<Vec<Place>> {
    let mut held = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..nodes * 3 {
        let listener = runtime.listen(local(0)).await.context("there is no free port")?;
        ports.push(listener.local_addr().context("a port has no address")?);
        held.push(listener);
    }
    let place = |(id, ports): (u16, &[SocketAddr])| Place { id, kafka: ports[0], peer: ports[1], http: ports[2] };
    Ok((1..).zip(ports.chunks_exact(3)).map(place).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broker_has_three_ports_a_hundred_above_those_of_the_one_before() {
        let places = in_steps(9092, 3).expect("they fit");
        let ports: Vec<_> = places.iter().map(|at| (at.id, at.kafka.port(), at.peer.port(), at.http.port())).collect();
        assert_eq!(ports, [(1, 9092, 9093, 9094), (2, 9192, 9193, 9194), (3, 9292, 9293, 9294)]);
        assert_eq!(in_steps(65_533, 1).expect("it fits")[0].http.port(), 65_535);
        assert!(in_steps(65_534, 1).is_err() && in_steps(65_400, 3).is_err());
    }
}

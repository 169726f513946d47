//! A server that answers for every object, with the chosen misbehaviour.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::random::Random;
use crate::gate::read_head;

/// The bytes that a trickling answer sends at once, and the time between them.
const DROP: usize = 1 << 10;
const PAUSE: Duration = Duration::from_millis(100);
/// The length after which even an endless body ends, in blocks.
const ENDLESS: usize = 4 << 10;
/// The bytes that are made up at a time.
const BLOCK: usize = 64 << 10;

/// How requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behaviour {
    /// 404, though the object was announced.
    Honest,
    /// Random bytes in place of a head.
    Garbage,
    /// The first half of the object.
    Truncated,
    /// The object, followed by random bytes without end.
    Endless,
    /// The object, at 10 KiB/s.
    Trickling,
    /// Other bytes of the same length.
    WrongBytes,
    /// A head with another size, and as many random bytes.
    WrongSize,
    /// A valid head without a body.
    Byteless,
    /// No answer.
    Silent,
    /// The first third of the object, then a reset.
    Reset,
}

/// The known objects, by their digests.
pub type Objects = Arc<Mutex<HashMap<String, Arc<Vec<u8>>>>>;

/// Answers until it is cancelled.
pub async fn serve(listener: TcpListener, objects: Objects, behaviour: watch::Receiver<Behaviour>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (objects, behaviour) = (objects.clone(), *behaviour.borrow());
        // A failure here is what a hostile server wants.
        connections.spawn(async move { answer(client, &objects, behaviour).await });
    }
}

async fn answer(mut client: TcpStream, objects: &Objects, behaviour: Behaviour) -> Result<()> {
    let Some((head, _)) = read_head(&mut client).await? else {
        return Ok(());
    };
    let path = head.split(' ').nth(1).unwrap_or_default();
    let mut parts = path.split(['/', '?']);
    let digest = parts.find(|part| part.starts_with("sha256:"));
    let digest = digest.unwrap_or_default();
    let object = {
        let objects = objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.get(digest).cloned()
    };
    let (Some(object), true) = (object, behaviour != Behaviour::Honest) else {
        let nothing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return Ok(client.write_all(nothing.as_bytes()).await?);
    };
    match behaviour {
        Behaviour::Garbage => return Ok(client.write_all(&noise(BLOCK)).await?),
        Behaviour::Silent => {
            // Until the client gives up.
            let _ = read_head(&mut client).await;
            return Ok(());
        }
        _ => {}
    }
    let told = match behaviour {
        Behaviour::WrongSize => object.len() / 2 + 7,
        _ => object.len(),
    };
    let (is_head, offset) = (head.starts_with("HEAD "), offset(&head).min(object.len()));
    let is_endless = behaviour == Behaviour::Endless && !is_head;
    let head = head_of(digest, offset, told, is_endless);
    client.write_all(head.as_bytes()).await?;
    if is_head {
        return Ok(());
    }
    send(
        &mut client,
        &object[offset..],
        told.saturating_sub(offset),
        behaviour,
    )
    .await
}

fn head_of(digest: &str, offset: usize, size: usize, is_endless: bool) -> String {
    let status = match offset {
        0 => "200 OK".to_owned(),
        _ => {
            let last = size.saturating_sub(1);
            format!("206 Partial Content\r\nContent-Range: bytes {offset}-{last}/{size}")
        }
    };
    let length = match is_endless {
        true => String::new(),
        false => format!("Content-Length: {}\r\n", size.saturating_sub(offset)),
    };
    format!(
        "HTTP/1.1 {status}\r\n{length}Docker-Content-Digest: {digest}\r\n\
         Content-Type: application/octet-stream\r\nConnection: close\r\n\r\n"
    )
}

/// Sends a body in place of `rest`. `told`: the expected number of bytes.
async fn send(
    client: &mut TcpStream,
    rest: &[u8],
    told: usize,
    behaviour: Behaviour,
) -> Result<()> {
    match behaviour {
        Behaviour::Truncated => client.write_all(&rest[..rest.len() / 2]).await?,
        Behaviour::Reset => {
            client.write_all(&rest[..rest.len() / 3]).await?;
            client.set_zero_linger()?;
        }
        Behaviour::Trickling => {
            for drop in rest.chunks(DROP) {
                client.write_all(drop).await?;
                tokio::time::sleep(PAUSE).await;
            }
        }
        Behaviour::WrongBytes | Behaviour::WrongSize => client.write_all(&noise(told)).await?,
        Behaviour::Endless => {
            client.write_all(rest).await?;
            let block = noise(BLOCK);
            for _ in 0..ENDLESS {
                client.write_all(&block).await?;
            }
        }
        Behaviour::Byteless | Behaviour::Honest | Behaviour::Garbage | Behaviour::Silent => {}
    }
    Ok(())
}

fn noise(count: usize) -> Vec<u8> {
    Random::new(count as u64).bytes(count)
}

/// The start of a request's range.
fn offset(head: &str) -> usize {
    let head = head.to_ascii_lowercase();
    let range = head.split("range: bytes=").nth(1);
    let first = range.and_then(|range| range.split('-').next()?.parse().ok());
    first.unwrap_or(0)
}

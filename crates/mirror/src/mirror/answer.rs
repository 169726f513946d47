//! Answers a request: dispatches it by its kind, and runs a request for content through the pipeline.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Response};

use super::{ConnectionAddresses, Mirror};
use crate::body::Body;
use crate::dial_back;
use crate::found::Source;
use crate::metrics::Metrics;
use crate::pull_through::Client;
use crate::refusal::Refusal;
use crate::request::conditions::{self, Conditions};
use crate::request::{
    Caller, ClientAddress, DIAL_BACK, MIRRORED, NODE, NOT_COMMITTED, PEER, Request, RequestError,
    Target, UNREACHED,
};
use crate::request_record::{RequestRecord, handler};
use crate::trace::Span;
use crate::{measured, send};

impl Mirror {
    /// The answer of `/livez`: that this node's mirror runs, and, if a peer asks, whether this node can connect to it.
    async fn liveness(&self, headers: &HeaderMap, client: SocketAddr) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        if let Ok(name) = HeaderValue::from_str(&self.own_name())
            && !name.is_empty()
        {
            response.headers_mut().insert(NODE, name);
        }
        let id = self.router.own_id();
        if let Some(Ok(id)) = id.map(|id| HeaderValue::from_str(id.as_str())) {
            response.headers_mut().insert(PEER, id);
        }
        let asker = headers.get(DIAL_BACK).and_then(|id| id.to_str().ok());
        if let Some(asker) = asker {
            let ip = client.ip().to_canonical();
            let unreached = self.dial_back.unreached(&*self.router, asker, ip).await;
            let unreached = unreached.map(|addresses| dial_back::header(&addresses));
            if let Some(Ok(unreached)) = unreached.map(|text| HeaderValue::from_str(&text)) {
                response.headers_mut().insert(UNREACHED, unreached);
            }
        }
        response
    }

    /// Answers a request. Its body is not read: a request with one is refused.
    pub async fn answer(
        &self,
        head: &http::request::Parts,
        addresses: ConnectionAddresses,
    ) -> Response<Body> {
        let request = self.reader.read(&head.method, &head.uri, &head.headers);
        let handler = handler(&request);
        let ip = addresses.remote.ip().to_canonical();
        let mut record = RequestRecord::open(
            self.metrics.clone(),
            head.method.clone(),
            head.uri.path(),
            ip,
            handler,
        );
        let result = match request {
            Ok(request) => self.serve(request, head, addresses, &mut record).await,
            Err(error) => Err(error.into()),
        };
        let mut response = result.unwrap_or_else(|refusal: Refusal| {
            record.refusal = Some(refusal.to_string());
            let is_peer = head.headers.contains_key(MIRRORED);
            send::refused(&refusal, is_peer)
        });
        record.status = Some(response.status());
        response.body_mut().record(record);
        response
    }

    /// # Errors
    /// Strangers are excluded, and the request is neither of this node's own client nor of a node of the network.
    fn admit_to_network(
        &self,
        head: &http::request::Parts,
        addresses: ConnectionAddresses,
    ) -> Result<(), Refusal> {
        let Some(network) = &self.network else {
            return Ok(());
        };
        let client = ClientAddress::of(addresses.remote, addresses.local);
        if self.access.caller(&head.headers, client, || false) == Caller::Own {
            return Ok(());
        }
        network.check(head).map_err(|why| {
            self.metrics.count_outside_network(why.reason());
            Refusal::OutsideNetwork(why)
        })
    }

    async fn serve(
        &self,
        request: Request,
        head: &http::request::Parts,
        addresses: ConnectionAddresses,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Refusal> {
        let headers = &head.headers;
        if !matches!(request, Request::Live | Request::Ready) {
            // Clients on this host are served because of their address alone, and so would be web pages in a browser on
            // it.
            if self.pull_through.is_some() || self.network.is_some() {
                let client = ClientAddress::of(addresses.remote, addresses.local);
                self.access.check_host(headers, client)?;
            }
            self.access.authorize(headers)?;
        }
        match request {
            Request::Live => Ok(self.liveness(headers, addresses.remote).await),
            Request::Ready => Ok(self.readiness()),
            Request::Base => Ok(Response::new(Body::empty())),
            Request::Report(digests) => {
                self.admit_to_network(head, addresses)?;
                Ok(self.answer_report(&digests))
            }
            Request::LinkTest => {
                self.admit_to_network(head, addresses)?;
                self.answer_link_test()
            }
            Request::List {
                origin,
                list,
                query,
            } => {
                let client = ClientAddress::of(addresses.remote, addresses.local);
                let caller = self.access.caller(headers, client, || false);
                // With containerd, mirrors are not asked for lists.
                let fetches = self.pull_through.as_ref();
                let fetches = fetches.filter(|_| caller == Caller::Own);
                let fetches = fetches.ok_or(RequestError::UnknownPath)?;
                let origin = origin.ok_or(RequestError::TagWithoutRegistry)?;
                self.access.admit_repository(&origin)?;
                let client = Client::of(headers, &self.access);
                fetches
                    .page(&origin, &list, (&head.uri, &query), &client)
                    .await
            }
            Request::Content(target) => self.serve_content(target, head, addresses, record).await,
        }
    }

    fn answer_link_test(&self) -> Result<Response<Body>, Refusal> {
        let flight = self.flight.as_ref().ok_or(RequestError::UnknownPath)?;
        let mut answer = flight.answer_link_test()?;
        let permit = self.upload.admit().ok_or(Refusal::Occupied)?;
        answer.body_mut().limit(&self.upload, Some(permit));
        Ok(answer)
    }

    async fn serve_content(
        &self,
        mut target: Target,
        head: &http::request::Parts,
        addresses: ConnectionAddresses,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Refusal> {
        let headers = &head.headers;
        // A trial image is for any client that knows its name.
        if !self.trials.has(&target) {
            self.admit_to_network(head, addresses)?;
        }
        record.span = Span::of_request(self.traces.as_ref(), headers);
        target.pull.trace = record.span.context();
        self.identify(&mut target, headers, addresses).await;
        target.pull.is_measured = measured::is_measured(&target, headers);
        if target.caller == Caller::Own && !target.pull.is_measured {
            Metrics::stamp(&self.metrics.own_client_last_request);
        }
        let origin = target.origin.as_ref();
        record.registry = origin.map(|origin| origin.registry.to_string());
        if let Some(digest) = target.digest().cloned() {
            if conditions::check(headers, &digest) != Conditions::Hold {
                target.ask_for_head_only();
            }
            let is_accusation = target.head_only && headers.contains_key(NOT_COMMITTED);
            if target.caller == Caller::Peer && is_accusation {
                self.accusations.heard(&digest);
            }
            self.track(&mut target, &digest, record);
        }
        let client = Client::of(headers, &self.access);
        let result = self.find(&mut target, &client, record).await;
        self.expect_manifest(&target, &result);
        self.tracked(&mut target, &result, record);
        if let (Ok(found), Some(delivery)) = (&result, &target.pull.delivery)
            && found.source == Source::Peer
        {
            self.accusations
                .watch(&target, &found.digest, delivery.clone());
        }
        let limits = (&self.memory, &self.upload);
        let mut response = send::found(&target, headers, result?, limits)?;
        measured::name_source(&target, &mut response);
        Ok(response)
    }
}

//! The calls that the store makes, answered from the state of a [`Fake`](super::Fake).

use super::*;

fn namespace<T>(request: &Request<T>) -> String {
    let value = request.metadata().get("containerd-namespace");
    let value = value.and_then(|v| v.to_str().ok());
    value.expect("a namespace in each request").to_owned()
}

fn info(digest: &str, labels: &[(String, String)]) -> content::Info {
    content::Info {
        digest: digest.to_owned(),
        labels: labels.iter().cloned().collect(),
        ..content::Info::default()
    }
}

#[async_trait]
impl content::content_server::Content for Service {
    async fn info(
        &self,
        request: Request<content::InfoRequest>,
    ) -> Result<Response<content::InfoResponse>, Status> {
        let key = (namespace(&request), request.into_inner().digest);
        let database = self.database.lock();
        let labels = database.content.get(&key);
        let labels = labels.ok_or_else(|| Status::not_found("content"))?;
        let info = Some(info(&key.1, labels));
        Ok(Response::new(content::InfoResponse { info }))
    }

    async fn list(
        &self,
        request: Request<content::ListContentRequest>,
    ) -> Result<Response<BoxStream<content::ListContentResponse>>, Status> {
        let namespace = namespace(&request);
        let database = self.database.lock();
        let ours = database.content.iter().filter(|(k, _)| k.0 == namespace);
        let batches: Vec<_> = ours
            .map(|(k, labels)| content::ListContentResponse {
                info: vec![info(&k.1, labels)],
            })
            .map(Ok)
            .collect();
        Ok(Response::new(futures::stream::iter(batches).boxed()))
    }
}

fn named(name: &str, target: &str) -> images::Image {
    let target = Descriptor {
        digest: target.to_owned(),
        ..Descriptor::default()
    };
    images::Image {
        name: name.to_owned(),
        target: Some(target),
        ..images::Image::default()
    }
}

#[async_trait]
impl images::images_server::Images for Service {
    async fn get(
        &self,
        request: Request<images::GetImageRequest>,
    ) -> Result<Response<images::GetImageResponse>, Status> {
        let key = (namespace(&request), request.into_inner().name);
        let database = self.database.lock();
        let target = database.images.get(&key);
        let target = target.ok_or_else(|| Status::not_found("image"))?;
        let image = Some(named(&key.1, target));
        Ok(Response::new(images::GetImageResponse { image }))
    }

    async fn list(
        &self,
        request: Request<images::ListImagesRequest>,
    ) -> Result<Response<images::ListImagesResponse>, Status> {
        let namespace = namespace(&request);
        let database = self.database.lock();
        let ours = database.images.iter().filter(|(k, _)| k.0 == namespace);
        let images = ours.map(|(k, target)| named(&k.1, target)).collect();
        Ok(Response::new(images::ListImagesResponse { images }))
    }
}

#[async_trait]
impl events::events_server::Events for Service {
    async fn subscribe(
        &self,
        _: Request<events::SubscribeRequest>,
    ) -> Result<Response<BoxStream<Envelope>>, Status> {
        let events = BroadcastStream::new(self.events.subscribe());
        let events = events.map(|e| e.map_err(|_| Status::data_loss("too slow")));
        Ok(Response::new(events.boxed()))
    }
}

#[async_trait]
impl introspection::introspection_server::Introspection for Service {
    async fn plugins(
        &self,
        request: Request<introspection::PluginsRequest>,
    ) -> Result<Response<introspection::PluginsResponse>, Status> {
        let filters = request.into_inner().filters;
        assert_eq!(filters, ["type==io.containerd.content.v1"]);
        let root = self.content.display().to_string();
        let plugin = introspection::Plugin {
            r#type: "io.containerd.content.v1".into(),
            exports: [("root".to_owned(), root)].into(),
            ..introspection::Plugin::default()
        };
        let plugins = vec![plugin];
        Ok(Response::new(introspection::PluginsResponse { plugins }))
    }
}

#[async_trait]
impl leases::leases_server::Leases for Service {
    async fn create(
        &self,
        request: Request<leases::CreateRequest>,
    ) -> Result<Response<leases::CreateResponse>, Status> {
        let namespace = namespace(&request);
        let leases::CreateRequest { id, labels } = request.into_inner();
        let mut database = self.database.lock();
        let Entry::Vacant(place) = database.leases.entry((namespace, id)) else {
            return Err(Status::already_exists("lease"));
        };
        place.insert(Lease {
            labels,
            content: BTreeSet::new(),
        });
        Ok(Response::new(leases::CreateResponse::default()))
    }

    async fn add_resource(
        &self,
        request: Request<leases::AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request);
        let leases::AddResourceRequest { id, resource } = request.into_inner();
        let resource = resource.ok_or_else(|| Status::invalid_argument("resource"))?;
        assert_eq!(resource.r#type, "content");
        let mut database = self.database.lock();
        let lease = database.leases.get_mut(&(namespace, id));
        let lease = lease.ok_or_else(|| Status::not_found("lease"))?;
        lease.content.insert(resource.id);
        Ok(Response::new(()))
    }

    async fn delete(
        &self,
        request: Request<leases::DeleteRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request);
        let leases::DeleteRequest { id, sync } = request.into_inner();
        let mut database = self.database.lock();
        let gone = database.leases.remove(&(namespace, id));
        gone.ok_or_else(|| Status::not_found("lease"))?;
        database.collections += usize::from(sync);
        Ok(Response::new(()))
    }

    async fn list(
        &self,
        request: Request<leases::ListRequest>,
    ) -> Result<Response<leases::ListResponse>, Status> {
        let namespace = namespace(&request);
        let database = self.database.lock();
        let ours = database.leases.iter().filter(|(k, _)| k.0 == namespace);
        let leases = ours.map(|(k, lease)| leases::Lease {
            id: k.1.clone(),
            labels: lease.labels.clone(),
            created_at: None,
        });
        let leases = leases.collect();
        Ok(Response::new(leases::ListResponse { leases }))
    }
}

#[async_trait]
impl version::version_server::Version for Service {
    async fn version(&self, _: Request<()>) -> Result<Response<version::VersionResponse>, Status> {
        Ok(Response::new(version::VersionResponse {
            version: "1.7.24~ds1".into(),
            revision: String::new(),
        }))
    }
}

#[async_trait]
impl cri::runtime_service_server::RuntimeService for Service {
    async fn status(
        &self,
        _: Request<cri::StatusRequest>,
    ) -> Result<Response<cri::StatusResponse>, Status> {
        let config =
            r#"{"registry":{"configPath":""},"containerd":{"discardUnpackedLayers":true}}"#;
        let info = [("config".to_owned(), config.to_owned())].into();
        Ok(Response::new(cri::StatusResponse { info }))
    }
}

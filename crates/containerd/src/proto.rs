//! The generated clients, in modules nested as their packages are.

#![allow(
    clippy::pedantic,
    clippy::style,
    dead_code,
    reason = "generated code; what is not called here comes with the services"
)]

pub mod containerd {
    pub mod events {
        tonic::include_proto!("containerd.events");
    }
    pub mod services {
        pub mod content {
            pub mod v1 {
                tonic::include_proto!("containerd.services.content.v1");
            }
        }
        pub mod events {
            pub mod v1 {
                tonic::include_proto!("containerd.services.events.v1");
            }
        }
        pub mod images {
            pub mod v1 {
                tonic::include_proto!("containerd.services.images.v1");
            }
        }
        pub mod introspection {
            pub mod v1 {
                tonic::include_proto!("containerd.services.introspection.v1");
            }
        }
        pub mod leases {
            pub mod v1 {
                tonic::include_proto!("containerd.services.leases.v1");
            }
        }
        pub mod version {
            pub mod v1 {
                tonic::include_proto!("containerd.services.version.v1");
            }
        }
    }
    pub mod types {
        tonic::include_proto!("containerd.types");
    }
}

pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

pub mod runtime {
    pub mod v1 {
        tonic::include_proto!("runtime.v1");
    }
}

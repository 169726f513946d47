//! The chart as a reviewer sees it. `INSTA_UPDATE=always cargo xtask test --only chart` writes the files anew.

use anyhow::Result;
use chart_tests::{Render, fixture};

use crate::configurations::EVERYTHING;

#[test]
fn the_default() -> Result<()> {
    insta::assert_snapshot!("default", Render::default().manifest()?);
    Ok(())
}

#[test]
fn a_daemonset_for_k3s() -> Result<()> {
    let render = Render::default().values("platform: k3s");
    insta::assert_snapshot!("k3s", render.only("templates/daemonset.yaml").manifest()?);
    Ok(())
}

#[test]
fn spegels_release_before_kubernetes_1_34() -> Result<()> {
    let render = Render::default().release("spegel").kubernetes("1.33.0");
    let render = render.values(&fixture("spegel-v0.7.4-values.yaml")?);
    let daemonset = render.clone().only("templates/daemonset.yaml").manifest()?;
    let services = render.only("templates/services.yaml").manifest()?;
    insta::assert_snapshot!("spegel-v0.7.4", format!("{daemonset}{services}"));
    Ok(())
}

#[test]
fn what_watches_the_mirror() -> Result<()> {
    let render = Render::default().values(EVERYTHING);
    let templates = [
        "monitors",
        "prometheusrule",
        "networkpolicy",
        "verticalpodautoscaler",
        "resourcequota",
    ];
    let mut text = String::new();
    for template in templates {
        let path = format!("templates/{template}.yaml");
        text.push_str(&render.clone().only(&path).manifest()?);
    }
    insta::assert_snapshot!("observation", text);
    Ok(())
}

/// Rights at the API server are reviewed as text.
#[test]
fn rights_of_node_readiness() -> Result<()> {
    for mode in ["taint", "condition"] {
        let render =
            Render::default().values(&format!("{{peili: {{nodeReadiness: {{mode: {mode}}}}}}}"));
        let rbac = render.clone().only("templates/rbac.yaml").manifest()?;
        let policy = render.only("templates/admissionpolicy.yaml").manifest()?;
        insta::assert_snapshot!(format!("readiness-{mode}"), format!("{rbac}{policy}"));
    }
    Ok(())
}

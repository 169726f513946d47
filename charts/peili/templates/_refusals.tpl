{{/* Refuses values that cannot work together. */}}
{{- define "peili.refusals" -}}
{{- $settings := include "peili.settings" . | fromJson }}
{{- $way := include "peili.way" . | fromJson }}
{{- $kube := .Capabilities.KubeVersion.Version }}
{{- $repository := .Values.image.repository }}
{{- if and (hasSuffix "/spegel" $repository) (ne $repository (include "peili.spegelsRepository" .)) }}
{{- include "peili.refuse" (list
      (printf "image.repository: %s looks like a copy of Spegel's image" $repository)
      "this chart runs Peili's image"
      (printf "copy ghcr.io/peili/peili:%s to your registry and name that repository" .Chart.AppVersion)) }}
{{- end }}
{{- $surge := dig "rollingUpdate" "maxSurge" 0 .Values.updateStrategy | toString }}
{{- if and (eq $way.mode "hostPort") (not (has $surge (list "0" "0%"))) }}
{{- include "peili.refuse" (list
      (printf "updateStrategy.rollingUpdate.maxSurge: %s cannot be had with host ports" $surge)
      "two pods cannot hold one port of a node, and the API server refuses such a DaemonSet"
      "maxSurge: 0, or service.registry.mode: nodePort (Kubernetes 1.34 and later)") }}
{{- end }}
{{- if and $settings.watchConfiguration $settings.containerdMirrorAdd (semverCompare "<1.29.0-0" $kube) }}
{{- include "peili.refuse" (list
      (printf "peili.watchConfiguration needs Kubernetes 1.29, this is %s" $kube)
      "it runs as a restartable init container"
      "peili.watchConfiguration: false, and restart the pods after the folder was rewritten") }}
{{- end }}
{{- if and (ne $settings.nodeReadiness.mode "off") (semverCompare "<1.30.0-0" $kube) }}
{{- include "peili.refuse" (list
      (printf "peili.nodeReadiness.mode: %s needs Kubernetes 1.30, this is %s" $settings.nodeReadiness.mode $kube)
      "a ValidatingAdmissionPolicy has to keep each mirror to its own node"
      "peili.nodeReadiness.mode: \"off\"") }}
{{- end }}
{{- if and $settings.networkKeySecret (not $settings.nodeSecret.enabled) }}
{{- include "peili.refuse" (list
      "peili.networkKeySecret without peili.nodeSecret.enabled"
      "the mirror refuses whoever proves neither, and containerd does not have the network key"
      "peili.nodeSecret.enabled: true, the default") }}
{{- end }}
{{- if and $settings.peerTlsSecret (not $settings.nodeSecret.enabled) }}
{{- include "peili.refuse" (list
      "peili.peerTlsSecret without peili.nodeSecret.enabled"
      "the mirror refuses whoever proves neither, and containerd does not have the certificate"
      "peili.nodeSecret.enabled: true, the default") }}
{{- end }}
{{- if and (eq .Values.grafanaDashboard.mode "GrafanaOperator") .Values.grafanaDashboard.enabled (not .Values.grafanaDashboard.grafanaOperator.matchLabels) }}
{{- include "peili.refuse" (list
      "grafanaDashboard.mode: GrafanaOperator without grafanaDashboard.grafanaOperator.matchLabels"
      "the operator then finds no Grafana for the dashboard"
      "set matchLabels to labels of your Grafana, or mode: Sidecar") }}
{{- end }}
{{- if and .Values.grafanaDashboard.sidecarLabelValue (not .Values.grafanaDashboard.sidecarLabel) }}
{{- include "peili.refuse" (list
      "grafanaDashboard.sidecarLabelValue without grafanaDashboard.sidecarLabel"
      "a value needs the label that it is for"
      "grafanaDashboard.labels, with name and value") }}
{{- end }}
{{- if lt (int .Values.terminationGracePeriodSeconds) 8 }}
{{- include "peili.refuse" (list
      (printf "terminationGracePeriodSeconds: %v is too short" .Values.terminationGracePeriodSeconds)
      "a mirror accepts connections for 5 s after SIGTERM, and then ends what it has begun"
      "8 or more; 30 is the default") }}
{{- end }}
{{- range $path := list $settings.persistence.path $settings.persistence.hostPath $settings.containerdSock $settings.containerdContentPath $settings.containerdConfig $settings.containerdRegistryConfigPath }}
{{- if not (hasPrefix "/" $path) }}
{{- include "peili.refuse" (list
      (printf "%q is not an absolute path" $path)
      "it is mounted from the node"
      "a path that begins with /") }}
{{- end }}
{{- end }}
{{- end }}

{{/*
How containerd reaches the mirror of its node, as JSON: `mode`, the `port` on the node, and the `nodePort` of the
registry's service, 0 where it has none.
*/}}
{{- define "peili.way" -}}
{{- $registry := .Values.service.registry }}
{{- $nodePort := int (default 30020 $registry.nodePort) }}
{{- $hostPort := int (default $nodePort $registry.hostPort) }}
{{- $mode := $registry.mode }}
{{- if eq $mode "auto" }}
{{- $sameNode := semverCompare ">=1.34.0-0" .Capabilities.KubeVersion.Version }}
{{- $replaced := .Capabilities.APIVersions.Has "cilium.io/v2" }}
{{- if $registry.usePreferSameNodeTrafficDistribution }}
{{- $mode = "nodePort" }}
{{- else if or $registry.hostPort (not $sameNode) $replaced }}
{{- $mode = "hostPort" }}
{{- else }}
{{- $mode = "nodePort" }}
{{- end }}
{{- end }}
{{- if eq $mode "hostPort" }}
{{- $free := and $registry.nodePort (ne $nodePort $hostPort) }}
{{- dict "mode" $mode "port" $hostPort "nodePort" (ternary $nodePort 0 (not (not $free))) | toJson }}
{{- else }}
{{- dict "mode" $mode "port" $nodePort "nodePort" $nodePort | toJson }}
{{- end }}
{{- end }}

{{/* The mirror of this node as a target for hosts.toml. The binary puts an IPv6 address from NODE_IP into brackets. */}}
{{- define "peili.target" -}}
{{- $way := include "peili.way" . | fromJson }}
{{- $ip := .Values.service.registry.nodeIp }}
{{- if contains ":" $ip }}
{{- printf "http://[%s]:%v" (trimPrefix "[" $ip | trimSuffix "]") $way.port }}
{{- else }}
{{- printf "http://$(NODE_IP):%v" $way.port }}
{{- end }}
{{- end }}

{{/* The DaemonSet's update strategy: the user's, or the one that leaves the shortest gap. */}}
{{- define "peili.updateStrategy" -}}
{{- $way := include "peili.way" . | fromJson }}
{{- if .Values.updateStrategy }}
{{- toYaml .Values.updateStrategy }}
{{- else if eq $way.mode "hostPort" }}
{{- dict "type" "RollingUpdate" "rollingUpdate" (dict "maxUnavailable" 1 "maxSurge" 0) | toYaml }}
{{- else }}
{{- dict "type" "RollingUpdate" "rollingUpdate" (dict "maxUnavailable" 0 "maxSurge" 1) | toYaml }}
{{- end }}
{{- end }}

{{/* NODE_IP and NODE_NAME, and what the user added. */}}
{{- define "peili.env" -}}
- name: NODE_IP
  {{- if .Values.service.registry.nodeIp }}
  value: {{ .Values.service.registry.nodeIp | quote }}
  {{- else }}
  valueFrom:
    fieldRef:
      fieldPath: status.hostIP
  {{- end }}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Security context of a pod, with the platform's SELinux options. */}}
{{- define "peili.podSecurityContext" -}}
{{- $platform := include "peili.platform" . | fromJson }}
{{- $context := dict }}
{{- with $platform.seLinuxOptions }}
{{- $_ := set $context "seLinuxOptions" . }}
{{- end }}
{{- mergeOverwrite $context (deepCopy .Values.podSecurityContext) | toYaml }}
{{- end }}

{{/* The chart's name, in labels. */}}
{{- define "peili.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/*
The full name, from which all names are made. A release called after Spegel keeps the names that Spegel's chart gave it,
so that an upgrade in place finds its services and their node ports.
*/}}
{{- define "peili.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $spegels := and (not .Values.nameOverride) (contains "spegel" .Release.Name) }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if or $spegels (contains $name .Release.Name) }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/*
The DaemonSet's name: never the one that Spegel's chart gave its own, whose selector cannot be changed.
*/}}
{{- define "peili.daemonset" -}}
{{- $fullname := include "peili.fullname" . }}
{{- if contains "peili" $fullname }}
{{- $fullname }}
{{- else }}
{{- printf "%s-peili" ($fullname | trunc 57 | trimSuffix "-") }}
{{- end }}
{{- end }}

{{- define "peili.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "peili.serviceAccount" -}}
{{- default (include "peili.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{/* Name of the objects without a namespace. */}}
{{- define "peili.clusterName" -}}
{{- printf "%s-%s" (include "peili.namespace" .) (include "peili.daemonset" .) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "peili.bootstrapDomain" -}}
{{ include "peili.fullname" . }}-bootstrap.{{ include "peili.namespace" . }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- define "peili.selectorLabels" -}}
app.kubernetes.io/name: {{ include "peili.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "peili.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "peili.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels that keep service meshes out of a pod. */}}
{{- define "peili.meshLabels" -}}
sidecar.istio.io/inject: "false"
istio.io/dataplane-mode: none
{{- end }}

{{- define "peili.spegelsRepository" -}}
ghcr.io/spegel-org/spegel
{{- end }}

{{/*
Not empty where `image` is about Spegel's image: it names Spegel's repository, or it names none, and the release or the
values are Spegel's.
*/}}
{{- define "peili.imageIsSpegels" -}}
{{- $named := eq .Values.image.repository (include "peili.spegelsRepository" .) }}
{{- $meant := and (not .Values.image.repository) (or .Values.spegel (contains "spegel" .Release.Name)) }}
{{- if or $named $meant }}spegels{{- end }}
{{- end }}

{{/* The image. Where the values mean Spegel's, ours takes its place, and tag and digest go with it. */}}
{{- define "peili.image" -}}
{{- $image := .Values.image }}
{{- $repository := default "ghcr.io/peili/peili" $image.repository }}
{{- if include "peili.imageIsSpegels" . }}
{{- printf "ghcr.io/peili/peili:%s" .Chart.AppVersion }}
{{- else if $image.digest }}
{{- printf "%s@%s" $repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

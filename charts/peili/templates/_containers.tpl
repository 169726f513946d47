{{/* The container that writes the mirror into containerd's registry configuration. */}}
{{- define "peili.configuration" -}}
{{- $settings := include "peili.settings" . | fromJson -}}
- name: configuration
  image: {{ include "peili.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- if $settings.watchConfiguration }}
  restartPolicy: Always
  {{- end }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  args:
    - configuration
    - --log-level={{ $settings.logLevel }}
    - --containerd-registry-config-path={{ $settings.containerdRegistryConfigPath }}
    {{- with include "peili.list" (list "--mirrored-registries" $settings.mirroredRegistries) }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- include "peili.list" (list "--mirror-targets" (prepend $settings.additionalMirrorTargets (include "peili.target" .))) | nindent 4 }}
    - --resolve-tags={{ $settings.resolveTags }}
    - --prepend-existing={{ $settings.prependExisting }}
    {{- if $settings.nodeSecret.enabled }}
    - --node-secret-file={{ $settings.persistence.path }}/node-secret
    {{- end }}
    - --allow-partial
    {{- if $settings.watchConfiguration }}
    - --watch
    {{- end }}
  env:
    {{- include "peili.env" . | nindent 4 }}
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  volumeMounts:
    - name: containerd-hosts
      mountPath: {{ include "peili.hostsFolder" . }}
    {{- if $settings.nodeSecret.enabled }}
    - name: data
      mountPath: {{ $settings.persistence.path }}
    {{- end }}
    {{- if .Values.basicAuthSecretName }}
    - name: basic-auth
      mountPath: /etc/secrets/basic-auth
      readOnly: true
    {{- end }}
{{- end }}

{{/* Arguments of the mirror. */}}
{{- define "peili.registryArgs" -}}
{{- $settings := include "peili.settings" . | fromJson }}
{{- $service := .Values.service -}}
- registry
- --log-level={{ $settings.logLevel }}
{{- if ne $settings.logFormat "json" }}
- --log-format={{ $settings.logFormat }}
{{- end }}
{{- with $settings.otlpEndpoint }}
- --otlp-endpoint={{ . }}
{{- end }}
- --mirror-resolve-retries={{ $settings.mirrorResolveRetries }}
- --mirror-resolve-timeout={{ $settings.mirrorResolveTimeout }}
- --registry-addr=:{{ $service.registry.port }}
- --router-addr=:{{ $service.router.port }}
- --metrics-addr=:{{ $service.metrics.port }}
{{- with include "peili.list" (list "--mirrored-registries" $settings.mirroredRegistries) }}
{{ . }}
{{- end }}
{{- with include "peili.list" (list "--registry-filters" $settings.registryFilters) }}
{{ . }}
{{- end }}
- --containerd-sock={{ $settings.containerdSock }}
- --containerd-namespace={{ $settings.containerdNamespace }}
- --containerd-content-path={{ $settings.containerdContentPath }}
- --containerd-config={{ $settings.containerdConfig }}
- --containerd-registry-config-path={{ $settings.containerdRegistryConfigPath }}
- --bootstrap-kind=dns
- --dns-bootstrap-domain={{ include "peili.bootstrapDomain" . }}
- --data-dir={{ $settings.persistence.path }}
- --resolve-tags={{ $settings.resolveTags }}
- --tag-policy={{ $settings.tagPolicy }}
- --tag-max-age={{ $settings.tagMaxAge }}
{{- with include "peili.list" (list "--private" $settings.private) }}
{{ . }}
{{- end }}
- --public-proof-max-age={{ $settings.publicProofMaxAge }}
- --pull-public-layers={{ $settings.pullPublicLayers }}
- --flights={{ ternary "on" "off" $settings.flights }}
- --retain-for={{ $settings.retainFor }}
- --retain-bytes={{ $settings.retainBytes }}
{{- range $flag, $rate := dict "upload-rate" $settings.uploadRate "download-rate" $settings.downloadRate }}
{{- if ne (toString $rate) "0" }}
- --{{ $flag }}={{ $rate }}
{{- end }}
{{- end }}
{{- if $settings.nodeSecret.enabled }}
- --node-secret-file={{ $settings.persistence.path }}/node-secret
{{- end }}
{{- if $settings.networkKeySecret }}
- --network-key-file=/etc/secrets/network-key/network-key
{{- end }}
{{- if $settings.peerTlsSecret }}
- --peer-tls-dir=/etc/secrets/peer-tls
{{- end }}
{{- if ne $settings.nodeReadiness.mode "off" }}
- --node-readiness={{ $settings.nodeReadiness.mode }}
- --node-readiness-taint={{ $settings.nodeReadiness.taint }}
- --node-readiness-timeout={{ $settings.nodeReadiness.timeout }}
{{- end }}
{{- if hasKey $settings "debugWebEnabled" }}
- --debug-web-enabled={{ $settings.debugWebEnabled }}
{{- end }}
{{- /* Together with the shutdown delay this ends a second before the kubelet would. */}}
- --shutdown-delay=5s
- --drain-timeout={{ sub (int .Values.terminationGracePeriodSeconds) 6 }}s
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A flag and its values, one argument each; nothing where there are none. */}}
{{- define "peili.list" -}}
{{- if index . 1 -}}
- {{ index . 0 }}
{{- range index . 1 }}
- {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

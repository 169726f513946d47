{{/*
What of the node is mounted. Folders are mounted at their own paths, because containerd and its configuration name each
other by path.

containerd's socket is mounted by its folder: a containerd that restarts makes a new socket, which a mount of the file
would not show. HostToContainer passes unmounts on, so that the root file systems of removed pods, which lie below that
folder, are not held.
*/}}
{{- define "peili.volumes" -}}
{{- $settings := include "peili.settings" . | fromJson -}}
- name: data
  {{- if $settings.persistence.enabled }}
  hostPath:
    path: {{ $settings.persistence.hostPath }}
    type: DirectoryOrCreate
  {{- else }}
  emptyDir: {}
  {{- end }}
- name: containerd-run
  hostPath:
    path: {{ dir $settings.containerdSock }}
    type: Directory
- name: containerd-content
  hostPath:
    path: {{ $settings.containerdContentPath }}
    type: DirectoryOrCreate
- name: containerd-config
  hostPath:
    path: {{ dir $settings.containerdConfig }}
    type: DirectoryOrCreate
{{- if or $settings.containerdMirrorAdd (include "peili.separateHosts" .) }}
- name: containerd-hosts
  hostPath:
    path: {{ include "peili.hostsFolder" . }}
    type: DirectoryOrCreate
{{- end }}
{{- with $settings.hostCertificatesPath }}
- name: host-certificates
  hostPath:
    path: {{ . }}
    type: DirectoryOrCreate
{{- end }}
{{- with .Values.basicAuthSecretName }}
- name: basic-auth
  secret:
    secretName: {{ . }}
{{- end }}
{{- with $settings.networkKeySecret }}
- name: network-key
  secret:
    secretName: {{ . }}
    optional: true
{{- end }}
{{- with $settings.peerTlsSecret }}
- name: peer-tls
  secret:
    secretName: {{ . }}
    optional: true
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Mounts of the mirror's container: nothing of the node is writable but its own data. */}}
{{- define "peili.mounts" -}}
{{- $settings := include "peili.settings" . | fromJson -}}
- name: data
  mountPath: {{ $settings.persistence.path }}
- name: containerd-run
  mountPath: {{ dir $settings.containerdSock }}
  readOnly: true
  mountPropagation: HostToContainer
- name: containerd-content
  mountPath: {{ $settings.containerdContentPath }}
  readOnly: true
  mountPropagation: HostToContainer
- name: containerd-config
  mountPath: {{ dir $settings.containerdConfig }}
  readOnly: true
{{- if include "peili.separateHosts" . }}
- name: containerd-hosts
  mountPath: {{ include "peili.hostsFolder" . }}
  readOnly: true
{{- end }}
{{- with $settings.hostCertificatesPath }}
- name: host-certificates
  mountPath: {{ . }}
  readOnly: true
{{- end }}
{{- if .Values.basicAuthSecretName }}
- name: basic-auth
  mountPath: /etc/secrets/basic-auth
  readOnly: true
{{- end }}
{{- if $settings.networkKeySecret }}
- name: network-key
  mountPath: /etc/secrets/network-key
  readOnly: true
{{- end }}
{{- if $settings.peerTlsSecret }}
- name: peer-tls
  mountPath: /etc/secrets/peer-tls
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Not empty where the registry configuration lies outside the folder of containerd's configuration file. */}}
{{- define "peili.separateHosts" -}}
{{- $settings := include "peili.settings" . | fromJson }}
{{- if not (hasPrefix (printf "%s/" (dir $settings.containerdConfig)) $settings.containerdRegistryConfigPath) }}separate{{- end }}
{{- end }}

{{/*
The folder that is mounted for containerd's registry configuration. Where the configuration is watched it is the folder
above: k3s before 1.28.14, 1.29.9 and 1.30.5 removes its own when it starts, and a mount of a removed folder stays dead.
*/}}
{{- define "peili.hostsFolder" -}}
{{- $settings := include "peili.settings" . | fromJson }}
{{- $above := dir $settings.containerdRegistryConfigPath }}
{{- if and $settings.watchConfiguration (ne $above "/") }}{{ $above }}{{ else }}{{ $settings.containerdRegistryConfigPath }}{{ end }}
{{- end }}

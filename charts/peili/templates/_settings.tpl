{{/*
The mirror's settings as JSON, from the weakest source to the strongest: defaults.yaml, the platform, and the user's
`peili` and `spegel`.
*/}}
{{- define "peili.settings" -}}
{{- $defaults := .Files.Get "files/defaults.yaml" | fromYaml }}
{{- $platform := include "peili.platform" . | fromJson }}
{{- $ours := include "peili.given" (dict "values" .Values "section" "peili") | fromJson }}
{{- $theirs := include "peili.given" (dict "values" .Values "section" "spegel") | fromJson }}
{{- include "peili.agree" (dict "ours" $ours "theirs" $theirs "path" "") }}
{{- $settings := mergeOverwrite $defaults (default dict $platform.settings) $ours $theirs }}
{{- if hasKey $settings "resolveLatestTag" }}
{{- if not $settings.resolveLatestTag }}
{{- $_ := set $settings "registryFilters" (append $settings.registryFilters ".*:latest$" | uniq) }}
{{- end }}
{{- $_ := unset $settings "resolveLatestTag" }}
{{- end }}
{{- if not $settings.nodeReadiness.mode }}
{{- $_ := set $settings.nodeReadiness "mode" "off" }}
{{- end }}
{{- toJson $settings }}
{{- end }}

{{/* What the user gave in one section, with keys of older releases under their names of today. Empty values are none. */}}
{{- define "peili.given" -}}
{{- $given := dict }}
{{- $renamed := dict "registries" "mirroredRegistries" "additionalMirrorRegistries" "additionalMirrorTargets" "appendMirrors" "prependExisting" }}
{{- $section := .section }}
{{- range $key, $value := default dict (get .values $section) }}
{{- if not (or (kindIs "invalid" $value) (and (kindIs "string" $value) (empty $value) (ne $key "hostCertificatesPath"))) }}
{{- $name := default $key (get $renamed $key) }}
{{- if hasKey $given $name }}
{{- if ne (toJson (get $given $name)) (toJson $value) }}
{{- include "peili.refuse" (list
      (printf "%s.%s and its older name are set to different values" $section $name)
      "both mean the same"
      (printf "remove the older key and keep %s.%s" $section $name)) }}
{{- end }}
{{- end }}
{{- $_ := set $given $name $value }}
{{- end }}
{{- end }}
{{- toJson $given }}
{{- end }}

{{/* Refuses a key that has one value under `peili` and another under `spegel`. */}}
{{- define "peili.agree" -}}
{{- $ours := .ours }}
{{- $path := .path }}
{{- range $key, $theirs := .theirs }}
{{- if hasKey $ours $key }}
{{- $our := get $ours $key }}
{{- if and (kindIs "map" $our) (kindIs "map" $theirs) }}
{{- include "peili.agree" (dict "ours" $our "theirs" $theirs "path" (printf "%s%s." $path $key)) }}
{{- else if ne (toJson $our) (toJson $theirs) }}
{{- include "peili.refuse" (list
      (printf "peili.%s%s and spegel.%s%s are set to different values" $path $key $path $key)
      "both names mean the same setting"
      (printf "remove spegel.%s%s" $path $key)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The platform's entry in platforms.yaml as JSON. */}}
{{- define "peili.platform" -}}
{{- $platforms := .Files.Get "files/platforms.yaml" | fromYaml }}
{{- $name := default "kubeadm" .Values.platform }}
{{- $platform := get $platforms $name }}
{{- if not $platform }}
{{- $known := list }}
{{- range $known_name, $entry := $platforms }}
{{- if not $entry.unsupported }}
{{- $known = append $known $known_name }}
{{- end }}
{{- end }}
{{- include "peili.refuse" (list
      (printf "platform: %q is not known" $name)
      "a platform decides where containerd keeps its socket, content and configuration"
      (printf "one of %s; or leave it empty and set the paths under peili" (sortAlpha $known | join ", "))) }}
{{- end }}
{{- with $platform.unsupported }}
{{- include "peili.refuse" (list (printf "platform: %s is not supported" $name) (splitList ". " . | first) (splitList ". " . | rest | join ". ")) }}
{{- end }}
{{- toJson $platform }}
{{- end }}

{{/* Ends with a message: what is wrong, why, what to do instead. */}}
{{- define "peili.refuse" -}}
{{- fail (printf "\n\n  %s.\n  Why: %s.\n  Instead: %s.\n" (index . 0) (index . 1) (index . 2)) }}
{{- end }}

{{/* Seconds of a duration like 90s, 5m or 1h. */}}
{{- define "peili.seconds" -}}
{{- if hasSuffix "h" . }}
{{- mul 3600 (trimSuffix "h" . | int) }}
{{- else if hasSuffix "m" . }}
{{- mul 60 (trimSuffix "m" . | int) }}
{{- else }}
{{- trimSuffix "s" . | int }}
{{- end }}
{{- end }}

{{/* What the pods of hooks share: no token, the pull secrets, the nodes. */}}
{{- define "peili.hookPod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
Tolerations of a pod that runs once: the user's, but for taints of nodes that are down. Kubernetes lets each pod
tolerate those for five minutes unless the pod says something about them itself; a value that they never have does, and
tolerates nothing.
*/}}
{{- define "peili.liveNodes" -}}
{{- range .Values.tolerations }}
{{- if .key }}
- {{ toYaml . | nindent 2 | trim }}
{{- else if ne (default "NoSchedule" .effect) "NoExecute" }}
- operator: Exists
  effect: {{ default "NoSchedule" .effect }}
{{- end }}
{{- end }}
{{- range list "not-ready" "unreachable" }}
- key: node.kubernetes.io/{{ . }}
  operator: Equal
  value: never
  effect: NoExecute
{{- end }}
{{- end }}

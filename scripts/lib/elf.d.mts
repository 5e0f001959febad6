export const glibcFloor: string
export function neededVersions(path: string): { library: string; version: string }[]
export function neededGlibc(path: string): string | undefined
export function compareVersions(a: string, b: string): number
export function checkPortable(path: string, platform: { libc?: string }): void

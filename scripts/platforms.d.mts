export interface Platform {
  name: string
  os: string
  cpu: string
  libc?: string
}
export const platforms: Record<string, Platform>
export function hostTarget(): string | undefined
export function bridgeFile(platform: Platform): string
export function writePlatformPackage(folder: string, platform: Platform): void

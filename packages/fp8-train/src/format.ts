/** Numbers as people read them; every unit is decimal (1 MB = 10^6 bytes). */

const scaled = (value: number, units: readonly string[], base = 1000): string => {
  if (!Number.isFinite(value)) return '?';
  let size = Math.abs(value);
  let unit = 0;
  // 999.5 would round to 1000 of this unit: it is 1.00 of the next.
  while (unit + 1 < units.length && Number(size.toPrecision(3)) >= base) {
    size /= base;
    unit++;
  }
  const digits = unit === 0 ? (Number.isInteger(size) ? 0 : 1) : size < 10 ? 2 : size < 100 ? 1 : 0;
  return `${value < 0 ? '-' : ''}${size.toFixed(digits)}${units[unit]}`;
};

/** `312 MB`, `1.24 GB`, `17 B`. */
export const formatBytes = (numBytes: number): string => scaled(numBytes, [' B', ' kB', ' MB', ' GB', ' TB']);

/** `18.2k`, `124M`, `37`. */
export const formatCount = (count: number): string => scaled(count, ['', 'k', 'M', 'G', 'T']);

/** `01:12`, `1:02:03`, `2d 03:04`; seconds below a minute are `00:07`. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return '--:--';
  const total = Math.round(seconds);
  const two = (n: number) => String(n).padStart(2, '0');
  const [days, hours, minutes] = [
    Math.floor(total / 86_400),
    Math.floor(total / 3600) % 24,
    Math.floor(total / 60) % 60,
  ];
  if (days > 0) return `${days}d ${two(hours)}:${two(minutes)}`;
  if (hours > 0) return `${hours}:${two(minutes)}:${two(total % 60)}`;
  return `${two(minutes)}:${two(total % 60)}`;
}

/** A loss with four figures: `3.412`, `10.83`, `nan`. */
export const formatLoss = (loss: number): string =>
  Number.isFinite(loss) ? loss.toFixed(Math.abs(loss) < 9.9995 ? 3 : 2) : String(loss).toLowerCase();

/** A small positive number such as a learning rate: `2.9e-4`, `0.81`. */
export function formatSmall(value: number): string {
  if (!Number.isFinite(value)) return String(value).toLowerCase();
  if (value === 0) return '0';
  const size = Math.abs(value);
  return size >= 0.0095 && size < 1000 ? String(Number(value.toPrecision(2))) : value.toExponential(1);
}

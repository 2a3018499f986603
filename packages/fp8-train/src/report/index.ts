export type { Point, ReportData, ReportRun, ReportSample, ReportSeries, ReportTable } from './data.ts';
export { reportHtml, writeReport } from './report.ts';

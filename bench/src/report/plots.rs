//! The report's pictures: SVG, drawn without any font of the system's.
//!
//! | File | Shows |
//! |---|---|
//! | `ratios-cpu.svg`, `ratios-apps.svg` | each contender against plain routing |
//! | `latency-SCENARIO.svg` | percentiles of latency at half of the rate at no loss |
//! | `rate-FLOWS.svg` | the rate at little loss against the number of rules |
//! | `new-flows.svg` | what a new flow costs against the number of rules |

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

use super::Report;
use crate::run::contender::Contender;
use crate::run::scenario::{Family, Flows, Load, Scenario, Size};

/// One picture.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its file.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// The file's content.
    pub svg: String,
}

/// A line, or a group of bars: points of one contender.
type Series = BTreeMap<Contender, Vec<(f64, f64)>>;

const SIZE: (u32, u32) = (900, 460);

/// All pictures for which there are values.
///
/// # Errors
/// When one cannot be drawn.
pub fn all(report: &Report) -> Result<Vec<Picture>> {
    let mut pictures = Vec::new();
    pictures.extend(ratios(
        report,
        "ratios-cpu.svg",
        "CPU for a packet by plain's (lower is better)",
        &["cpu"],
    )?);
    let apps = ["tcp-1", "tcp-8", "rr-block-p50", "connect"];
    pictures.extend(ratios(
        report,
        "ratios-apps.svg",
        "Applications by plain's (rr-*: lower is better, others: higher)",
        &apps,
    )?);
    pictures.extend(latencies(report)?);
    pictures.extend(by_rules(report)?);
    Ok(pictures)
}

/// Bars: a group for each scenario and measure, a bar for each contender.
fn ratios(report: &Report, name: &str, title: &str, measures: &[&str]) -> Result<Option<Picture>> {
    let mut groups = Vec::new();
    let mut series = Series::new();
    for scenario in report.values.scenarios() {
        for measure in measures {
            let at = groups.len();
            let mut any = false;
            for contender in Contender::ALL {
                if contender == Contender::Plain {
                    continue;
                }
                if let Some(ratio) = report.by_plain(scenario, measure, contender) {
                    #[expect(clippy::cast_precision_loss, reason = "a few groups")]
                    series.entry(contender).or_default().push((at as f64, ratio.median));
                    any = true;
                }
            }
            if any {
                let one = measures.len() == 1;
                groups.push(if one {
                    scenario.to_string()
                } else {
                    format!("{scenario} {measure}")
                });
            }
        }
    }
    if groups.is_empty() {
        return Ok(None);
    }
    let svg = bars(title, &groups, &series).map_err(|error| anyhow!("{name}: {error}"))?;
    Ok(Some(Picture { name: name.to_owned(), title: title.to_owned(), svg }))
}

fn latencies(report: &Report) -> Result<Vec<Picture>> {
    let percentiles =
        [("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p999", "p99.9"), ("p9999", "p99.99")];
    let mut pictures = Vec::new();
    for scenario in report.values.scenarios() {
        let mut series = Series::new();
        for contender in Contender::ALL {
            for (at, (percentile, _)) in (0_u32..).zip(percentiles) {
                let measure = format!("latency-50-{percentile}");
                if let Some(value) = report.values.summary(scenario, &measure, contender) {
                    series.entry(contender).or_default().push((f64::from(at), value.median));
                }
            }
        }
        if series.is_empty() {
            continue;
        }
        let title = format!("{scenario}: latency at half the rate at no loss, µs");
        let ticks = percentiles.map(|(_, words)| words.to_owned());
        let name = format!("latency-{scenario}.svg");
        let svg = lines(&title, "percentile", &Ticks::Words(ticks.to_vec()), &series)
            .map_err(|error| anyhow!("{name}: {error}"))?;
        pictures.push(Picture { name, title, svg });
    }
    Ok(pictures)
}

/// Lines over the number of rules, one picture for each number of flows with at least
/// two points.
fn by_rules(report: &Report) -> Result<Vec<Picture>> {
    let mut cells: BTreeMap<(Family, Size, Flows), Vec<Scenario>> = BTreeMap::new();
    for scenario in report.values.scenarios() {
        if let Load::Packets { size, flows } = scenario.load {
            cells.entry((scenario.family, size, flows)).or_default().push(scenario);
        }
    }
    let mut pictures = Vec::new();
    for ((.., flows), scenarios) in cells {
        let Some(load) = scenarios.first().map(|scenario| scenario.load_name()) else { continue };
        let (measure, words, name) = match flows {
            Flows::New => ("cpu", "CPU for a new flow, ns", format!("new-flows-{load}.svg")),
            Flows::First => {
                ("cpu", "CPU for a first packet, ns", format!("first-packets-{load}.svg"))
            }
            Flows::Established(_) => {
                ("pdr", "rate at ≤ 0.1 % loss, kpps", format!("rate-{load}.svg"))
            }
        };
        let mut series = Series::new();
        for scenario in &scenarios {
            for contender in Contender::ALL {
                if let Some(value) = report.values.summary(*scenario, measure, contender) {
                    let point = (f64::from(scenario.rules), value.median);
                    series.entry(contender).or_default().push(point);
                }
            }
        }
        if series.values().all(|points| points.len() < 2) {
            continue;
        }
        let title = format!("{load}: {words}, against rules");
        let svg = lines(&title, "rules", &Ticks::Numbers, &series)
            .map_err(|error| anyhow!("{name}: {error}"))?;
        pictures.push(Picture { name, title, svg });
    }
    Ok(pictures)
}

/// The colour of a contender, the same in every picture: after Okabe and Ito, told
/// apart by the colour-blind.
fn colour(contender: Contender) -> RGBColor {
    match contender {
        Contender::Plain => RGBColor(0, 0, 0),
        Contender::NftLinear => RGBColor(240, 228, 66),
        Contender::NftSets => RGBColor(230, 159, 0),
        Contender::IptablesIpset => RGBColor(204, 121, 167),
        Contender::Ovs => RGBColor(213, 94, 0),
        Contender::Testpmd => RGBColor(153, 153, 153),
        Contender::Weir => RGBColor(0, 114, 178),
        Contender::WeirOff => RGBColor(86, 180, 233),
        Contender::WeirTap => RGBColor(0, 158, 115),
    }
}

/// What stands below the horizontal axis.
enum Ticks {
    /// Words at 0, 1, 2, ...
    Words(Vec<String>),
    /// Numbers, on a logarithmic axis.
    Numbers,
}

/// The smallest and the largest y.
fn span(series: &Series) -> (f64, f64) {
    let ys = || series.values().flatten().map(|(_, y)| *y).filter(|y| *y > 0.0);
    let (low, high) = (ys().fold(f64::INFINITY, f64::min), ys().fold(0.0, f64::max));
    if low.is_finite() { (low, high) } else { (0.1, 1.0) }
}

/// The same for a logarithmic axis: from a power of ten on, since below the first of them
/// it shows no marks.
fn decades(series: &Series) -> (f64, f64) {
    let (low, high) = span(series);
    (10_f64.powf(low.log10().floor()), high * 1.5)
}

fn bars(
    title: &str,
    groups: &[String],
    series: &Series,
) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    {
        #[expect(clippy::cast_possible_truncation, reason = "a few groups")]
        let width = SIZE.0.max(120 * groups.len() as u32 + 200);
        let area = SVGBackend::with_string(&mut svg, (width, SIZE.1)).into_drawing_area();
        area.fill(&WHITE)?;
        let (low, high) = span(series);
        #[expect(clippy::cast_precision_loss, reason = "a few groups")]
        let right = groups.len() as f64 - 0.5;
        // Powers of two, so that twice and half look alike; bars start at 1.
        let (bottom, top) = (low.log2().min(0.0).floor(), high.log2().max(0.0).ceil());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few")]
        let marks = (top - bottom) as usize + 1;
        let room = 0.14 * (right + 0.5); // for the legend
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(50)
            .build_cartesian_2d(-0.5..right + room, bottom..top + 0.01)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(groups.len() * 2 + 1)
            .x_label_formatter(&|x| name_at(*x, groups))
            .y_labels(marks.max(2))
            .y_label_formatter(&|y| ((y.exp2() * 1000.0).round() / 1000.0).to_string())
            .y_desc("ratio")
            .draw()?;
        #[expect(clippy::cast_precision_loss, reason = "at most nine contenders")]
        let each = 0.8 / series.len() as f64;
        for (number, (contender, points)) in (0_u32..).zip(series) {
            let fill = colour(*contender).filled();
            let left = -0.4 + each * f64::from(number);
            chart
                .draw_series(points.iter().map(|(x, y)| {
                    Rectangle::new([(x + left, 0.0), (x + left + each * 0.9, y.log2())], fill)
                }))?
                .label(contender.name())
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], fill));
        }
        chart.draw_series(LineSeries::new([(-0.5, 0.0), (right, 0.0)], BLACK))?;
        legend(&mut chart)?;
        area.present()?;
    }
    Ok(svg)
}

fn lines(
    title: &str,
    below: &str,
    ticks: &Ticks,
    series: &Series,
) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (low, high) = decades(series);
        let rightmost = series.values().flatten().map(|(x, _)| *x).fold(1.0, f64::max);
        let mut builder = ChartBuilder::on(&area);
        builder
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60);
        match ticks {
            Ticks::Words(words) => {
                let mut chart =
                    builder.build_cartesian_2d(-0.2..rightmost + 0.7, (low..high).log_scale())?;
                chart
                    .configure_mesh()
                    .disable_x_mesh()
                    .x_labels(words.len() * 2 + 1)
                    .x_label_formatter(&|x| name_at(*x, words))
                    .x_desc(below)
                    .draw()?;
                draw_lines(&mut chart, series)?;
            }
            Ticks::Numbers => {
                let range = (0.8..rightmost.powf(1.2) * 1.5).log_scale();
                let mut chart = builder.build_cartesian_2d(range, (low..high).log_scale())?;
                chart.configure_mesh().x_desc(below).draw()?;
                draw_lines(&mut chart, series)?;
            }
        }
        area.present()?;
    }
    Ok(svg)
}

fn draw_lines<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    series: &Series,
) -> Result<(), Box<dyn std::error::Error>>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    for (contender, points) in series {
        let style = colour(*contender);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style.stroke_width(2)))?
            .label(contender.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style.stroke_width(2)));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, style.filled())))?;
    }
    legend(chart)
}

fn legend<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
) -> Result<(), Box<dyn std::error::Error>>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// The word for a whole number on the axis; nothing between two of them.
fn name_at(x: f64, words: &[String]) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
    let at = if x > -0.01 { x.round() as usize } else { usize::MAX };
    let whole = (x - x.round()).abs() < 0.01;
    if whole { words.get(at).cloned().unwrap_or_default() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::super::values::{Values, tests::proven};
    use super::*;

    #[test]
    fn pictures_are_drawn_of_what_there_is() {
        let mut samples = Vec::new();
        for (scenario, factor) in [("64b-1r-10kf", 1.0), ("64b-1000r-10kf", 2.0)] {
            for (contender, value) in [(Contender::Plain, 100.0), (Contender::Weir, 90.0)] {
                for measure in ["cpu", "pdr", "latency-50-p50", "latency-50-p99"] {
                    samples.push(proven(1, scenario, measure, contender, value * factor));
                }
            }
        }
        let report = Report {
            plan: Default::default(),
            notes: Vec::new(),
            environment: Vec::new(),
            values: Values::of(&samples).0,
            samples: samples.len(),
            refused: Vec::new(),
            unable: Vec::new(),
            figures: Vec::new(),
            inprocess: None,
        };
        let pictures = all(&report).unwrap();
        let names: Vec<&str> = pictures.iter().map(|picture| picture.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "ratios-cpu.svg",
                "latency-64b-1r-10kf.svg",
                "latency-64b-1000r-10kf.svg",
                "rate-64b-10kf.svg"
            ]
        );
        for picture in &pictures {
            assert!(picture.svg.trim_end().ends_with("</svg>"), "{}", picture.name);
            assert!(
                picture.svg.contains(">weir<") || picture.svg.contains("weir\n"),
                "{}",
                picture.svg
            );
        }
    }

    #[test]
    fn words_stand_below_whole_numbers_only() {
        let words = ["a".to_owned(), "b".to_owned()];
        assert_eq!(name_at(1.0, &words), "b");
        assert_eq!(name_at(0.5, &words), "");
        assert_eq!(name_at(-1.0, &words), "");
        assert_eq!(name_at(7.0, &words), "");
    }
}
